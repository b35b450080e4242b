"""throttled-py: GCRA of burst 1 that sleeps exactly for the reported wait, or GCRA of a full burst and its own wait.

Its own wait looks again every 0.2 s at least, so the first setting is the better one.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from gate import Config, Gate, Job
from throttled.asyncio import Throttled, per_duration, store

LONGEST_WAIT_S = 3600


class ThrottledGate(Gate):
    distribution = "throttled-py"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._tuned = config.setting == "gcra burst 1"
        self._throttled: dict[str, Throttled] = {}
        shared = store.RedisStore(server=config.redis_url)
        for model in config.models:
            for name, count, period_s in config.rates(model):
                quota = per_duration(timedelta(seconds=period_s), count, burst=1 if self._tuned else count)
                self._throttled[name] = Throttled(using="gcra", quota=quota, store=shared)

    async def acquire(self, job: Job, _attempt: int, /) -> None:
        for name in reversed(self.config.models[job.model]):
            throttled = self._throttled[name]
            if not self._tuned:
                await throttled.limit(name, timeout=LONGEST_WAIT_S)
                continue
            while (result := await throttled.limit(name)).limited:
                await asyncio.sleep(result.state.retry_after)


GATE = ThrottledGate
