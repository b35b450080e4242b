"""limits: the moving window in Redis; after a denial it sleeps until the window has room again."""

from __future__ import annotations

import asyncio
import time

from gate import Config, Gate, Job
from limits import RateLimitItemPerSecond
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string

SHORTEST_SLEEP_S = 0.001


class LimitsGate(Gate):
    distribution = "limits"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        storage = storage_from_string(f"async+{config.redis_url}", implementation="redispy")
        self._limiter = MovingWindowRateLimiter(storage)
        self._items = {
            name: RateLimitItemPerSecond(count, period_s)
            for model in config.models
            for name, count, period_s in config.rates(model)
        }

    async def acquire(self, job: Job, _attempt: int, /) -> None:
        for name in reversed(self.config.models[job.model]):
            item = self._items[name]
            while not await self._limiter.hit(item, name):
                window = await self._limiter.get_window_stats(item, name)
                await asyncio.sleep(max(window.reset_time - time.time(), SHORTEST_SLEEP_S))


GATE = LimitsGate
