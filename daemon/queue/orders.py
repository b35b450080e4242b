"""Carries out orders of producers and operators: cancel, retry, and retry of a dead letter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from redis.asyncio import Redis

from daemon.queue.messages import Changed, Deletion, Target
from daemon.queue.steps import Steps
from pixmill.records.keys import Keys
from pixmill.records.views import GroupView, View

# The states that an order means unless it names some.
CANCEL_STATES = ("queued", "throttled", "retry_wait", "running", "held")
DEFAULT_RETRY = ("failed",)
PAGE = 40  # members of a group a call: it holds the server for about 2 ms


class Orders:
    """Carries orders out. Errors: those of the Redis client; each order may be repeated safely."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._call = Steps(client, keys.prefix)

    async def cancel(self, kind: Target, name: str, states: Iterable[str]) -> Changed:
        """Cancel a group or an item. Waiting items end; running items get a request to stop. Atomic for each page."""
        return await self._by_pages("cancel", kind, name, states)

    async def retry(
        self, kind: Target, name: str, states: Iterable[str], *, since_us: int | None = None
    ) -> Changed:
        """Queue items again that ended without a picture or are held. Succeeded items stay. Atomic for each page.

        `since_us` is the time of an order that this one repeats: what has run or ended since then stays as well.
        """
        return await self._by_pages("retry", kind, name, states, since_us=since_us)

    async def cancel_members(self, gid: str, uids: Sequence[str], states: Iterable[str]) -> Changed:
        """As `cancel`, for some members of a group. Atomic for each page."""
        return await self._members("cancel", gid, uids, states)

    async def retry_members(
        self, gid: str, uids: Sequence[str], states: Iterable[str], *, since_us: int | None = None
    ) -> Changed:
        """As `retry`, for some members of a group. Atomic for each page."""
        return await self._members("retry", gid, uids, states, since_us=since_us)

    async def begin_delete(self, kind: Target, name: str) -> Deletion:
        """Mark ended work as being deleted, so that no order or late part opens it again. `more`: it is marked."""
        return await self._delete(kind, name, marks=True)

    async def delete(self, kind: Target, name: str) -> Deletion:
        """Delete the records of ended work. Atomic for each page; a deletion that broke off may be repeated."""
        state: Deletion = "more"
        while state == "more":
            state = await self._delete(kind, name)
        return state

    async def _delete(self, kind: Target, name: str, *, marks: bool | None = None) -> Deletion:
        reply = await self._call("delete", kind=kind, name=name, page=PAGE, marks=marks)
        state: Deletion = reply.decode()
        return state

    async def _members(
        self, order: str, gid: str, uids: Sequence[str], states: Iterable[str], **more: int | None
    ) -> Changed:
        changed, requested, meant = 0, 0, list(states)
        for start in range(0, len(uids), PAGE):
            given = {
                "kind": "items",
                "name": gid,
                "names": uids[start : start + PAGE],
                "states": meant,
                **more,
            }
            state, _, on_page, *running = await self._call(order, **given)
            if state != b"ok":
                return Changed(known=False, ended_or_queued=0)
            changed, requested = changed + on_page, requested + sum(running)
        return Changed(True, changed, requested)

    async def _by_pages(
        self, order: str, kind: Target, name: str, states: Iterable[str], **more: int | None
    ) -> Changed:
        first, changed, requested = 0, 0, 0
        meant = {"kind": kind, "name": name, "states": list(states), "page": PAGE, **more}
        while first >= 0:
            state, first, on_page, *running = await self._call(order, **meant, first=first)
            if state != b"ok":
                return Changed(known=False, ended_or_queued=0)
            changed, requested = changed + on_page, requested + sum(running)
        return Changed(True, changed, requested)

    async def retry_letter(
        self, uid: str, letter: str, states: Sequence[str]
    ) -> Literal["queued", "unchanged", "unknown", "gone"]:
        """Queue the item of a dead letter again and remove the letter, in one step; repeated calls do it once.

        `unchanged`: the item is in none of `states`, and the letter is removed. `unknown`: the item's record has
        ended, and the letter stays. `gone`: the letter had been removed before.
        """
        reply = await self._call("retry", kind="item", name=uid, states=states, letter=letter)
        state: Literal["ok", "unknown", "gone"] = reply[0].decode()
        if state != "ok":
            return state
        return "queued" if reply[2] else "unchanged"

    async def resend(self, letter: str, own_fields: int) -> bool:
        """Send a dead letter's original again and remove the letter, in one step; False if there is no such letter.

        The last `own_fields` fields of the letter do not belong to the original.
        """
        return bool(await self._call("resend", letter=letter, own_fields=own_fields))


def target_of(view: View) -> tuple[Target, str]:
    """The record that an order is about."""
    return ("group", view.gid) if isinstance(view, GroupView) else ("item", str(view.uid))
