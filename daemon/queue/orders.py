"""Orders of people: cancel, retry, and retry of a dead letter; for producers, the intake and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from redis.asyncio import Redis

from daemon.queue.keys import Keys
from daemon.queue.messages import Changed, Target
from daemon.queue.steps import Steps

PAGE = 500  # members of a group a call


class Orders:
    """Carries orders out. Errors: whatever the Redis client raises; each order may be repeated safely."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._call = Steps(client, keys.prefix)

    async def cancel(self, kind: Target, name: str, states: Iterable[str]) -> Changed:
        """Cancel a group or an item: what waits ends, what runs is requested to stop. Atomic a page."""
        return await self._by_pages("cancel", kind, name, states)

    async def retry(self, kind: Target, name: str, states: Iterable[str]) -> Changed:
        """Queue again what ended without a picture, or is held; what succeeded is never touched. Atomic a page."""
        return await self._by_pages("retry", kind, name, states)

    async def _by_pages(self, order: str, kind: Target, name: str, states: Iterable[str]) -> Changed:
        first, changed, requested = 0, 0, 0
        meant = {"kind": kind, "name": name, "states": list(states), "page": PAGE}
        while first >= 0:
            state, first, on_page, *running = await self._call(order, **meant, first=first)
            if state != b"ok":
                return Changed(known=False, ended_or_queued=0)
            changed, requested = changed + on_page, requested + sum(running)
        return Changed(True, changed, requested)

    async def retry_letter(
        self, uid: str, letter: str, states: Sequence[str]
    ) -> Literal["queued", "unchanged", "unknown", "gone"]:
        """Queue the item of a dead letter again and take the letter off, in one step; repeated, it happens once.

        `unchanged`: it is in none of `states` any more, and the letter is taken off. `unknown`: its record has ended,
        and the letter stays. `gone`: the letter had been taken off before.
        """
        reply = await self._call("retry", kind="item", name=uid, states=states, letter=letter)
        state: Literal["ok", "unknown", "gone"] = reply[0].decode()
        if state != "ok":
            return state
        return "queued" if reply[2] else "unchanged"

    async def resend(self, letter: str, own_fields: int) -> bool:
        """Send a dead letter's original anew and take the letter off, in one step; False where it is not there.

        The last `own_fields` fields of the letter are not the original's.
        """
        return bool(await self._call("resend", letter=letter, own_fields=own_fields))
