"""Finds recalled permits of a process by the doorbell's messages about quotas.

A slot can be seconds away. If the provider refuses a call meanwhile, or an operator pauses or changes the quota,
earlier grants are recalled. A call that leaves late recalls those with later slots. A caller sleeps here until its
slot, and checks here once more before it sends the call.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from limiter.permit import Permit

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
