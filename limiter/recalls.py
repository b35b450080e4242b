"""Finds recalled permits of a process by the doorbell's messages about quotas.

A slot can be seconds away. If the provider refuses a call meanwhile, or an operator pauses or changes the quota,
earlier grants are recalled. A caller sleeps here until its slot, and checks here once more before it sends the call.
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

    `requested_at`, in all methods, is the time of the permit's request by that clock.
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
        # Keep the message's arrival as well: a permit that is requested later was granted later, even if the server's
        # clock was set meanwhile.
        self._noted_at[name] = self.clock()
        self._until_us[name] = max(self._until_us.get(name, 0), int(until)) if until.isdecimal() else _EVER
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
        )

    def has_news(self, name: str, since: float) -> bool:
        """Whether the quota may have changed since that time of the clock."""
        return since <= max(self._gap_at, self._noted_at.get(name, -math.inf))

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
