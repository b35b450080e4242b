"""A provider's account as a caller sees it, and one in virtual time, with the simulator's own arithmetic of quotas."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Protocol

from benchmarks.today.terms import Batch
from benchmarks.today.virtual_time import now_s
from providers.simulator.quotas import KeyQuotas
from providers.simulator.settings import Rate, SimulatorSettings


class RefusedError(Exception):
    """A 429. `retry_after_s` is the wait that it names."""

    def __init__(self, quota: str, retry_after_s: float | None) -> None:
        super().__init__(quota)
        self.quota = quota
        self.retry_after_s = retry_after_s


class Account(Protocol):
    """The calls of a provider; pictures are numbers."""

    async def generate(self, picture: int) -> None:
        """Wait for the picture. Raises RefusedError, or TimeoutError for a call that its caller has given up."""

    async def submit(self, picture: int) -> str:
        """Begin a task, and return its name. Raises RefusedError."""

    async def is_over(self, task: str) -> bool:
        """Poll a task."""


class VirtualAccount:
    """One account of a simulated provider. It goes on with a call whose caller has died, and charges it."""

    def __init__(self, batch: Batch, dice: random.Random) -> None:
        terms = self._terms = batch.terms
        rate = None if terms.count is None else Rate(terms.count, terms.window_s)
        busy_s = terms.busy_retry_s or 0.0
        settings = SimulatorSettings(images=rate, in_flight=terms.in_flight, latency_s=(busy_s, busy_s))
        self._quotas = KeyQuotas(settings, now_s)
        self._batch = batch
        self._dice = dice
        self._running: dict[str, asyncio.Task[None]] = {}
        self._calls: Counter[int] = Counter()  # admitted, by picture
        self.refused = 0

    @property
    def paid(self) -> int:
        """Calls that the provider charges: all that it admitted."""
        return self._calls.total()

    async def generate(self, picture: int) -> None:
        """See Account."""
        is_first = not self._calls[picture]
        work = self._running[await self.submit(picture)]
        if is_first and picture in self._batch.lost:
            await asyncio.sleep(self._terms.timeout_s)
            raise TimeoutError
        await asyncio.shield(work)

    async def submit(self, picture: int) -> str:
        """See Account."""
        await asyncio.sleep(self._dice.uniform(0, self._terms.way_s))
        if refusal := self._quotas.admit(1):
            self.refused += 1
            named = self._terms.busy_retry_s is not None
            raise RefusedError(refusal.quota, refusal.retry_after_s if named else None)
        self._calls[picture] += 1
        task = f"{picture}/{self._calls[picture]}"
        self._running[task] = asyncio.create_task(self._work(picture))
        return task

    async def is_over(self, task: str) -> bool:
        """See Account."""
        await asyncio.sleep(self._dice.uniform(0, self._terms.way_s))
        return self._running[task].done()

    async def _work(self, picture: int) -> None:
        await asyncio.sleep(self._batch.seconds[picture])
        self._quotas.leave()
