"""Grants that do not hold any more: the doorbell's messages about quotas, compared with the permits of a process.

A slot can be seconds away. If the provider refuses a call meanwhile, or an operator pauses or changes the quota, what
was granted before does not hold any more. A caller that sleeps until a slot sleeps here, and looks here once more
before the call is sent.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress

from limiter.permit import Permit

_EVER = 2**63


class Recalls:
    """One for each process that listens to `PREFIX:bell`. `clock` is monotonic, in seconds.

    `requested_at`, in all methods, is when the permit was requested, by that clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._until_us: dict[str, int] = {}
        self._noted_at: dict[str, float] = {}
        self._gap_at = -math.inf
        self._news = asyncio.Event()

    def note(self, message: str) -> bool:
        """Note a message of the bell; False if it is not about a quota."""
        topic, _, rest = message.partition(" ")
        if topic != "quota":
            return False
        name, _, until = rest.partition(" ")
        # A message with a time has one here, too: a permit that is requested after it came was granted after it was
        # sent, also if a clock was set meanwhile.
        self._noted_at[name] = self.clock()
        self._until_us[name] = max(self._until_us.get(name, 0), int(until)) if until.isdecimal() else _EVER
        self._wake()
        return True

    def note_gap(self) -> None:
        """The bell was not listened to for a while until now, so everything may have changed."""
        self._gap_at = self.clock()
        self._wake()

    def covers(self, permit: Permit, requested_at: float) -> bool:
        """Whether the permit must not be used: give it back, and request another one."""
        if requested_at <= self._gap_at:
            return bool(permit.quotas)
        return any(
            requested_at <= self._noted_at.get(name, -math.inf) and permit.granted_us <= self._until_us[name]
            for name in permit.quotas
        )

    async def sleep(self, permit: Permit, requested_at: float, until: float) -> bool:
        """Sleep until a time of the clock; False, and at once, if the permit is recalled before."""
        while not self.covers(permit, requested_at):
            rest_s = until - self.clock()
            if rest_s <= 0:
                return True
            await self.wait(rest_s)
        return False

    async def wait(self, longest_s: float) -> None:
        """Return when there is news of any quota, or after `longest_s`."""
        news = self._news
        # Not wait_for: until Python 3.12 it can swallow a cancellation that comes together with the news.
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
