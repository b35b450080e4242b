"""Grants that have to be asked for again: what the doorbell says of quotas, held against the permits of a process.

A slot can be seconds away. If the provider refuses a call meanwhile, or an operator pauses or changes the quota, what
was granted before does not hold any more. Whoever sleeps until a slot should sleep here, and look here once more
before the call is sent.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress

from limiter.permit import Permit


class Recalls:
    """One for each process that listens to `PREFIX:bell`. `clock` is monotonic, in seconds.

    `asked_at`, in all methods, is when the permit was asked for, by that clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_us: dict[str, int] = {}
        self._heard_at: dict[str, float] = {}
        self._deaf_at = -math.inf
        self._news = asyncio.Event()

    def hear(self, message: str) -> bool:
        """Take note of a message of the bell; False if it is not about a quota."""
        what, _, rest = message.partition(" ")
        if what != "quota":
            return False
        name, _, until = rest.partition(" ")
        if until.isdecimal():
            self._until_us[name] = max(self._until_us.get(name, 0), int(until))
        else:
            self._heard_at[name] = self._clock()
        self._tell()
        return True

    def deaf(self) -> None:
        """Nobody listened for a while until now, so everything may have changed."""
        self._deaf_at = self._clock()
        self._tell()

    def covers(self, permit: Permit, asked_at: float) -> bool:
        """Whether the permit must not be used: give it back, and ask for another one."""
        if asked_at <= self._deaf_at:
            return bool(permit.quotas)
        return any(
            permit.granted_us <= self._until_us.get(name, -1)
            or asked_at <= self._heard_at.get(name, -math.inf)
            for name in permit.quotas
        )

    async def sleep(self, permit: Permit, asked_at: float, until: float) -> bool:
        """Sleep until a time of the clock; False, and at once, if the permit is called back before."""
        while not self.covers(permit, asked_at):
            rest_s = until - self._clock()
            if rest_s <= 0:
                return True
            await self.wait(rest_s)
        return False

    async def wait(self, longest_s: float) -> None:
        """Until there is news of any quota, or for so long."""
        news = self._news
        # Not wait_for: until Python 3.12 it can swallow a cancellation that comes together with the news.
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
