"""Deletes work that has ended: its pictures first, its records last.

The records alone know the pictures' names. If they went first and the process died, the pictures would stay for ever,
and a repeated request would find nothing. So the record is marked, which hides it and keeps orders from opening it.
Then the pictures go, then the record. A deletion that breaks off anywhere is completed by the next request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from daemon.gateway.answering.problems import Problem
from daemon.gateway.gateway import Gateway
from daemon.queue.dead_letters import DeadLetters
from daemon.queue.messages import Target
from daemon.storage.keeper import possible_keys, thumb_key
from pixmill.records.records import PAGE, ItemView


async def delete_work(here: Gateway, kind: Target, name: str) -> bool:
    """Delete a group or an item; False if there is none. Raises Problem 409 while it runs; StorageError."""
    begun = await here.orders.begin_delete(kind, name)
    if begun == "unknown":
        return False
    if begun == "not_ended":
        raise Problem(409, "not_ended", "This has not ended; cancel it first.")
    began = await _delete_pictures(here, kind, name)
    await _purge_letters(here, _letter_name(name), began)
    await here.orders.delete(kind, name)
    return True


async def _delete_pictures(here: Gateway, kind: Target, name: str) -> dict[str, int]:
    """Delete pictures and thumbnails; returns when each item was accepted (ms since 1970). Raises StorageError."""
    if kind == "item":
        return await _delete_page(here, await here.records.items([name], with_deleted=True))
    began: dict[str, int] = {}
    total = int(await here.redis.zcard(here.keys.members(name)))
    for start in range(0, total, PAGE):
        began |= await _delete_page(here, await here.records.members(name, start))
    return began


async def _delete_page(here: Gateway, found: Sequence[ItemView | None]) -> dict[str, int]:
    items = [item for item in found if item is not None]
    await here.store.delete([key for item in items for key in _keys_of(item)])
    return {str(item.uid): int(item.accepted_at.timestamp() * 1000) for item in items}


async def _purge_letters(here: Gateway, name: str, began: Mapping[str, int]) -> None:
    """Purge the dead letters of the work and its items, however they ended: a retry would begin them anew.

    One scan for all of them: there may be far more letters than items.
    """
    letters = DeadLetters(here.redis, here.keys)
    since_ms, tenant = min(began.values(), default=0), name.partition("/")[0]
    entries = [
        letter.entry
        async for letter in letters.oldest_first(tenant=tenant, since_ms=since_ms)
        if (uid := f"{letter.tenant}/{letter.batch or ''}/{letter.item}") == name or uid in began
    ]
    await letters.purge(entries)


def _letter_name(name: str) -> str:
    """How dead letters name the work itself: a batch as an item of its own name, as its events do."""
    tenant, batch, *item = name.split("/")
    return name if item else f"{tenant}/{batch}/{batch}"


def _keys_of(item: ItemView) -> Iterator[str]:
    """The keys of its pictures and thumbnails, also of one that a run stored and could not settle."""
    known = [str(image["key"]) for image in item.images]
    unsettled = [] if known or not any(item.calls.values()) else possible_keys(item.uid, item.accepted_at)
    yield from known or unsettled
    if known or unsettled:
        yield thumb_key((known or unsettled)[0])
