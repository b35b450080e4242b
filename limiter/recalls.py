"""Finds recalled permits of a process by the doorbell's messages about quotas.

A slot can be seconds away. If the provider refuses a call meanwhile, or an operator pauses or changes the quota,
earlier grants are recalled. A call that leaves late recalls those with later slots. A caller sleeps here until its
slot, and checks here once more before it sends the call.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from limiter.permit import Permit

_EVER = 2**63
# The recalls of a quota that are kept apart; older ones are merged into one that covers more.
_KEPT = 16


class _Recall(NamedTuple):
    """Covers the permits that were granted until `until_us` for a slot after `after_us`.

    `noted_at`: a permit that is requested later was granted later, even if the server's clock was set meanwhile.
    """

    noted_at: float
    until_us: int
    after_us: int

    def covers(self, permit: Permit, requested_at: float) -> bool:
        return (
            requested_at <= self.noted_at
            and permit.granted_us <= self.until_us
            and permit.slot_us > self.after_us
        )

    def merged(self, later: _Recall) -> _Recall:
        until_us, after_us = max(self.until_us, later.until_us), min(self.after_us, later.after_us)
        return _Recall(later.noted_at, until_us, after_us)


class Recalls:
    """One for each process that listens to `PREFIX:bell`. `clock` is monotonic, in seconds.

    `requested_at`, in all methods, is the time of the permit's request by that clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._recalls: dict[str, deque[_Recall]] = {}
        self._gap_at = -math.inf
        self._news = asyncio.Event()

    def note(self, message: str) -> bool:
        """Note a message of the bell; False if it is not about a quota."""
        topic, _, rest = message.partition(" ")
        if topic != "quota":
            return False
        name, _, times = rest.partition(" ")
        until, _, after = times.partition(" ")
        until_us = int(until) if until.isdecimal() else _EVER
        recalls = self._recalls.setdefault(name, deque())
        recalls.append(_Recall(self.clock(), until_us, int(after) if after.isdecimal() else -1))
        if len(recalls) > _KEPT:
            recalls.appendleft(recalls.popleft().merged(recalls.popleft()))
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
            recall.covers(permit, requested_at)
            for name in permit.quotas
            for recall in self._recalls.get(name, ())
        )

    def has_news(self, name: str, since: float) -> bool:
        """Whether the quota may have changed since that time of the clock."""
        recalls = self._recalls.get(name)
        return since <= max(self._gap_at, recalls[-1].noted_at if recalls else -math.inf)

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
