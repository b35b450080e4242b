"""Hands places in flight on within one process: an ended call's release travels with the request that waits for it.

A release and then a request are two round trips, and another process may be woken in between. So a process whose next
call waits for a place sends both together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from limiter.limiter import Limiter
from limiter.permit import Permit
from limiter.quota.limits import InFlight
from limiter.quota.quota import Quota
from limiter.script import uninterrupted

# A release that no request has taken along by then goes alone.
TAKEN_WITHIN_S: Final = 0.02


@dataclass(eq=False, slots=True)
class _Ended:
    """The permit of a call that has ended. `freed` is whether a request took its release along."""

    permit: Permit
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    freed: bool = False


@dataclass(eq=False, slots=True)
class _Wait:
    """A holder that wants a place under these quotas; if it `rests`, its next request takes `ended` permits along."""

    quotas: frozenset[str]
    rests: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[_Ended] = field(default_factory=list)


class Places:
    """One for each process that listens to `PREFIX:bell`: pass it each message and each gap, as with `Recalls`."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._waits: dict[str, _Wait] = {}  # by holder

    def note(self, message: str) -> bool:
        """Note a message of the bell; False if it is not about freed places.

        An operator's change of a quota wakes its waiters too. Refusals and late calls do not concern them.
        """
        topic, _, rest = message.partition(" ")
        called = rest.split()
        for holder, wait in self._waits.items():
            if (topic == "slot" and holder in called) or (topic == "quota" and rest in wait.quotas):
                wait.woken.set()
        return topic == "slot"

    def wake_all(self) -> None:
        """Wake all waiters: messages may have been missed, or an operator has paused a route."""
        for wait in self._waits.values():
            wait.woken.set()

    async def release(self, permit: Permit) -> None:
        """Release the permit of an ended call, together with the request of a holder that waits for its place.

        Errors: those of `Limiter.release`.
        """
        await uninterrupted(self._release(permit))

    @contextmanager
    def requested(self, holder: str, quotas: Sequence[Quota]) -> Iterator[list[Permit]]:
        """The permits that the request which is made within has to release. After an error they are released alone.

        The bell may call the holder before the reply is here, so it counts as waiting until `leave`.
        """
        former = self._waits.pop(holder, None)
        self._waits[holder] = _Wait(
            frozenset(quota.name for quota in quotas if quota.limit(InFlight) is not None)
        )
        ended = [] if former is None else former.ended
        for one in ended:
            one.taken.set()
        try:
            yield [one.permit for one in ended]
            for one in ended:
                one.freed = True
        finally:
            for one in ended:
                one.done.set()

    async def wait(self, holder: str, longest_s: float) -> None:
        """Wait until the holder's next request is worth it, for `longest_s` at most."""
        if (wait := self._waits.get(holder)) is None:
            return
        wait.rests = True
        # Not wait_for: until Python 3.12 it can swallow a cancellation that comes together with the news.
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await wait.woken.wait()

    def leave(self, holder: str) -> None:
        """Note that the holder waits no more. Permits that it did not take along are released alone."""
        if (wait := self._waits.pop(holder, None)) is not None:
            for ended in wait.ended:
                ended.taken.set()
                ended.done.set()

    async def _release(self, permit: Permit) -> None:
        waits = (
            wait for wait in self._waits.values() if wait.rests and wait.quotas.intersection(permit.leased)
        )
        if (wait := next(waits, None)) is None or not await _taken_along(wait, permit):
            await self._limiter.release(permit)


async def _taken_along(wait: _Wait, permit: Permit) -> bool:
    """Whether the request of `wait`, which begins now, has released the permit."""
    ended = _Ended(permit)
    wait.ended.append(ended)
    wait.woken.set()
    with suppress(TimeoutError):
        async with asyncio.timeout(TAKEN_WITHIN_S):
            await ended.taken.wait()
    if not ended.taken.is_set():
        wait.ended.remove(ended)
        return False
    await ended.done.wait()
    return ended.freed
