"""Waits of a process with its permits: for slots, which a recall may take back, and for places in flight.

A slot can be seconds away. If the provider refuses a call meanwhile, or an operator pauses or changes the quota,
earlier grants are recalled. A call that leaves late recalls those with later slots. A caller sleeps in `Recalls` until
its slot, and checks there once more before it sends the call.

`Places` hands places on within the process: an ended call's release travels with the request that waits for it. A
release and then a request are two round trips, and another process may be woken in between.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from limiter.limiter import Limiter
from limiter.permit import Permit
from limiter.quota.limits import InFlight
from limiter.quota.quota import Quota
from limiter.script import uninterrupted

# A release that no request has taken along by then goes alone.
TAKEN_WITHIN_S: Final = 0.02
_EVER = 2**63
# The latest late calls of a quota that are known; a permit that waits for longer is rare.
_LATE_KEPT = 4096


class _Late(NamedTuple):
    """A late call left at `at_us`: grants before it with a later slot are recalled."""

    at_us: int
    noted_at: float


class Recalls:
    """One for each process that listens to `PREFIX:bell`. `clock` is monotonic, in seconds.

    `requested_at`, in all methods, is the time of the permit's request by that clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._until_us: dict[str, int] = {}
        self._noted_at: dict[str, float] = {}
        self._late: dict[str, list[_Late]] = {}
        self._gap_at = -math.inf
        self._news = asyncio.Event()

    def note(self, message: str) -> bool:
        """Note a message of the bell; False if it is not about a quota."""
        topic, _, rest = message.partition(" ")
        if topic != "quota":
            return False
        name, _, times = rest.partition(" ")
        until, _, late = times.partition(" ")
        # Keep the message's arrival as well: a permit that is requested later was granted later, even if the server's
        # clock was set meanwhile.
        if late.isdecimal():
            calls = self._late.setdefault(name, [])
            calls.append(_Late(int(late), self.clock()))
            del calls[:-_LATE_KEPT]
        else:
            self._noted_at[name] = self.clock()
            until_us = int(until) if until.isdecimal() else _EVER
            self._until_us[name] = max(self._until_us.get(name, 0), until_us)
        self._wake()
        return True

    def note_gap(self) -> None:
        """Note that messages may have been missed until now, so any quota may have changed."""
        self._gap_at = self.clock()
        self._wake()

    def covers(self, permit: Permit, requested_at: float) -> bool:
        """Whether the permit is recalled: give it back, and request another one."""
        if requested_at <= self._gap_at:
            return bool(permit.quotas)
        return any(
            requested_at <= self._noted_at.get(name, -math.inf) and permit.granted_us <= self._until_us[name]
            for name in permit.quotas
        ) or any(self._is_behind_late(name, permit, requested_at) for name in permit.quotas)

    def _is_behind_late(self, name: str, permit: Permit, requested_at: float) -> bool:
        calls = self._late.get(name, [])
        first = bisect_left(calls, permit.granted_us, key=lambda call: call.at_us)
        before_slot = itertools.takewhile(lambda call: call.at_us < permit.slot_us, calls[first:])
        return any(requested_at <= call.noted_at for call in before_slot)

    def has_news(self, name: str, since: float) -> bool:
        """Whether the quota may have changed since that time of the clock."""
        late = [call.noted_at for call in self._late.get(name, [])[-1:]]
        return since <= max(self._gap_at, self._noted_at.get(name, -math.inf), *late)

    async def sleep(self, permit: Permit, requested_at: float, until: float) -> bool:
        """Sleep until a time of the clock. Returns True then, or False as soon as the permit is recalled."""
        while not self.covers(permit, requested_at):
            rest_s = until - self.clock()
            if rest_s <= 0:
                return True
            await self.wait(rest_s)
        return False

    async def wait(self, longest_s: float) -> None:
        """Wait for news of any quota, for `longest_s` at most."""
        news = self._news
        # Not wait_for: until Python 3.12 it can swallow a cancellation that comes together with the news.
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


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
