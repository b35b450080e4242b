"""pyrate-limiter: its exact log in Redis, or its GCRA of burst 1; the buffer after a wait is a setting of ours.

Several limits are acquired one after the other, the rarer first: it has no call that takes all or none.
"""

from __future__ import annotations

from gate import Config, Gate, Job
from pyrate_limiter import GCRA, Limiter, Rate, RedisBucket, RedisStateStore, StateBucket
from redis.asyncio import Redis

BUFFERS_MS = {"log": 50, "gcra burst 1": 0}  # 50 is its default; GCRA would add it to each of its steps


class PyrateGate(Gate):
    distribution = "pyrate-limiter"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._client = Redis.from_url(config.redis_url)
        self._limiters: dict[str, Limiter] = {}

    async def open(self) -> None:
        await self._client.ping()
        for model in self.config.models:
            for name, count, period_s in self.config.rates(model):
                if name not in self._limiters:
                    self._limiters[name] = await self._limiter(name, count, period_s)

    async def _limiter(self, name: str, count: int, period_s: int) -> Limiter:
        if self.config.setting == "log":
            bucket = await RedisBucket.init([Rate(count, period_s * 1000)], self._client, name)
        else:
            rates = [Rate(count, period_s * 1000, burst=1)]
            bucket = StateBucket(rates, algorithm=GCRA(), store=RedisStateStore(self._client, name))
        return Limiter(bucket, buffer_ms=BUFFERS_MS[self.config.setting])

    async def acquire(self, job: Job, _attempt: int, /) -> None:
        names = reversed(self.config.models[job.model])
        for name in names:
            if not await self._limiters[name].try_acquire_async(name):
                raise RuntimeError("try_acquire_async gave up")

    async def close(self) -> None:
        for limiter in self._limiters.values():
            limiter.close()
        await self._client.aclose()


GATE = PyrateGate
