"""Deletes work that has ended: its pictures first, its records last.

The records alone know the pictures' names. If they went first and the process died, the pictures would stay for ever,
and a repeated request would find nothing. So the record is marked, which hides it and keeps orders from opening it.
Then the pictures go, then the record. A deletion that breaks off anywhere is completed by the next request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from daemon.gateway.gateway import Gateway
from daemon.gateway.problems import Problem
from daemon.queue.dead_letters import DeadLetters
from daemon.queue.messages import Target
from daemon.queue.records import PAGE, ItemView
from daemon.storage.keeper import possible_keys, thumb_key


async def delete_work(here: Gateway, kind: Target, name: str) -> bool:
    """Delete a group or an item; False if there is none. Raises Problem 409 while it runs; StorageError."""
    begun = await here.orders.begin_delete(kind, name)
    if begun == "unknown":
        return False
    if begun == "not_ended":
        raise Problem(409, "not_ended", "This has not ended; cancel it first.")
    if kind == "item":
        await _delete_traces(here, await here.records.items([name], with_deleted=True))
    else:
        total = int(await here.redis.zcard(here.names.members(name)))
        for start in range(0, total, PAGE):
            await _delete_traces(here, await here.records.members(name, start))
    await here.orders.delete(kind, name)
    return True


async def _delete_traces(here: Gateway, found: Sequence[ItemView | None]) -> None:
    """Delete what items left beside their records: pictures, thumbnails, dead letters."""
    items = [item for item in found if item is not None]
    await here.store.delete([key for item in items for key in _keys_of(item)])
    given_up = {str(item.uid): item for item in items if item.error is not None}
    if given_up:
        since_ms = min(int(item.accepted_at.timestamp() * 1000) for item in given_up.values())
        letters = DeadLetters(here.redis, here.names)
        tenant = next(iter(given_up.values())).tenant
        names = [
            letter.entry
            async for letter in letters.oldest_first(tenant=tenant, since_ms=since_ms)
            if f"{letter.tenant}/{letter.batch or ''}/{letter.item}" in given_up
        ]
        await letters.purge(names)


def _keys_of(item: ItemView) -> Iterator[str]:
    """The keys of its pictures and thumbnails, also of one that a run stored and could not settle."""
    known = [str(image["key"]) for image in item.images]
    unsettled = [] if known or not any(item.calls.values()) else possible_keys(item.uid, item.accepted_at)
    yield from known or unsettled
    if known or unsettled:
        yield thumb_key((known or unsettled)[0])
