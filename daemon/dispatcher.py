"""One route's dispatcher: permission first, then a job, then a coroutine for it.

A job that must wait for quota stays in its queue; it holds no worker, burns no attempt and blocks no other route.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress

from redis.exceptions import RedisError

from daemon.bell import Bell
from daemon.keys import LANES
from daemon.loops import run_forever, uninterrupted
from daemon.metrics import Metrics
from daemon.queue import Queue
from daemon.routes import Route
from daemon.running import Running
from limiter.limiter import Grant, Later, Limiter, Permit

LOOK_EVERY_S = 1.0  # the slow poll behind the doorbell
CLAIM_MOST = 64  # items a claim where no quota paces the route
# A slot further away is not reserved yet: what a replica holds in advance is lost to the others when it dies, and
# a pause of the account would have to be checked against it.
HORIZON_S = 2.0


class Dispatcher:
    """Acquires permits for one route and turns each into a running item, or gives it back."""

    def __init__(
        self, route: Route, queue: Queue, limiter: Limiter, running: Running, bell: Bell, metrics: Metrics
    ) -> None:
        self.route = route
        self.bound: str | None = None  # what holds the route back right now, for people
        self.looked_at: float | None = None  # monotonic time of the last claim or empty look that succeeded
        self._queue = queue
        self._limiter = limiter
        self._running = running
        self._bell = bell
        self._metrics = metrics
        self._requests = itertools.count()
        self._more = False

    async def run(self) -> None:
        await run_forever(f"dispatcher {self.route.name}", self._step)

    async def _step(self) -> None:
        if not self._running.free:
            self.bound = "workers"
            self.looked_at = time.monotonic()  # a full replica is consuming
            await self._bell.wait(self.route.name, LOOK_EVERY_S)
            return
        if not self._more and not await self._queue.waiting(self.route.name, LANES):
            self.bound = None
            self.looked_at = time.monotonic()
            await self._bell.wait(self.route.name, LOOK_EVERY_S)
            return
        if self.route.quotas:
            await self._one_with_permit()
        else:
            await self._many()

    async def _many(self) -> None:
        reserved = self._running.reserve(CLAIM_MOST)
        try:
            await uninterrupted(self._claim(reserved))
        finally:
            self._running.unreserve(reserved)

    async def _claim(self, count: int) -> None:
        self._more, items = await self._queue.claim(self.route.name, count)
        self.looked_at = time.monotonic()
        for item in items:
            self._running.start(item, self.route, None)

    async def _one_with_permit(self) -> None:
        reserved = self._running.reserve(1)
        try:
            permit = await self._permit()
            if permit is not None:
                await uninterrupted(self._claim_for(permit))
        finally:
            self._running.unreserve(reserved)

    async def _permit(self) -> Permit | None:
        """A permit whose slot has come, or None after waiting until it makes sense to ask again."""
        asked_at = time.monotonic()
        answer = await self._limiter.acquire(
            self.route.quotas,
            holder=self._queue.worker,
            request_id=f"{self._queue.worker}:{self.route.name}:{next(self._requests)}",
            max_wait_s=HORIZON_S,
        )
        self.looked_at = time.monotonic()
        if isinstance(answer, Later):
            self.bound = answer.bound
            await self._wait_for(answer)
            return None
        return await self._slot_of(answer, asked_at)

    async def _wait_for(self, later: Later) -> None:
        # The bell rings when a lease is freed; a window's or a cooldown's end is known, so nothing rings for it.
        wait_s = later.retry_us / 1e6
        if later.bound.endswith(".in_flight"):
            await self._bell.wait(self.route.name, min(wait_s, LOOK_EVERY_S))
        else:
            await asyncio.sleep(min(wait_s, LOOK_EVERY_S))

    async def _slot_of(self, grant: Grant, asked_at: float) -> Permit | None:
        try:
            await asyncio.sleep(grant.wait_us / 1e6)
        except asyncio.CancelledError:
            await uninterrupted(self._limiter.give_back(grant.permit))
            raise
        waited_s = time.monotonic() - asked_at
        for quota in self.route.quotas:
            self._metrics.limiter_grants.labels(quota=quota.name).inc()
            self._metrics.limiter_wait_seconds.labels(quota=quota.name).observe(waited_s)
        return grant.permit

    async def _claim_for(self, permit: Permit) -> None:
        try:
            self._more, items = await self._queue.claim(self.route.name, 1, [permit.to_json()])
        except RedisError:
            # Not known whether the claim ran. If it did, the item is pending without an owner that renews it and is
            # reclaimed; nothing was sent either way. Where Redis is away the lease ends by itself.
            with suppress(RedisError):
                await self._limiter.give_back(permit)
            raise
        self.looked_at = time.monotonic()
        if not items:
            await self._limiter.give_back(permit)
            return
        self._running.start(items[0], self.route, permit)
