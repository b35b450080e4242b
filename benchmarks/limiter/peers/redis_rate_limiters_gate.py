"""redis-rate-limiters: a token bucket of capacity 1, and its semaphore for calls in flight.

The semaphore's expiry is set to more than the longest call, as it has to be.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from gate import Config, Gate, Job
from limiters import AsyncSemaphore, AsyncTokenBucket
from redis.asyncio import Redis

SEMAPHORE_EXPIRY_S = 30


class RedisRateLimitersGate(Gate):
    distribution = "redis-rate-limiters"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._client = Redis.from_url(config.redis_url)

    async def open(self) -> None:
        await self._client.ping()

    async def acquire(self, job: Job, _attempt: int, /) -> AsyncExitStack:
        held = AsyncExitStack()
        for name, count in self.config.in_flight(job.model):
            places = AsyncSemaphore(
                connection=self._client, name=name, capacity=count, expiry=SEMAPHORE_EXPIRY_S
            )
            await held.enter_async_context(places)
        for name, count, period_s in reversed(self.config.rates(job.model)):
            bucket = AsyncTokenBucket(
                connection=self._client,
                name=name,
                capacity=1,
                refill_frequency=period_s / count,
                refill_amount=1,
            )
            await held.enter_async_context(bucket)
        return held

    async def release(self, permit: AsyncExitStack) -> None:
        await permit.aclose()

    async def close(self) -> None:
        await self._client.aclose()


GATE = RedisRateLimitersGate
