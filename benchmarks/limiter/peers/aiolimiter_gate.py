"""aiolimiter: no shared state, so every replica gets its part of the quota: the answer without Redis."""

from __future__ import annotations

from aiolimiter import AsyncLimiter
from gate import Config, Gate, Job


class AiolimiterGate(Gate):
    distribution = "aiolimiter"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._limiters = {
            name: AsyncLimiter(count / config.replicas, period_s)
            for model in config.models
            for name, count, period_s in config.rates(model)
        }

    async def acquire(self, job: Job, _attempt: int, /) -> None:
        for name in reversed(self.config.models[job.model]):
            await self._limiters[name].acquire()


GATE = AiolimiterGate
