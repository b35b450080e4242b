"""The parts of one replica that run items, all real, without the others."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from daemon.accounts.routes import Route, Routes
from daemon.maintenance.heartbeat import Heartbeat
from daemon.maintenance.reclaimer import Reclaimer
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome, Succeeded
from daemon.worker.dispatcher import Dispatcher
from daemon.worker.run import Phase, Run
from limiter import Grant, Permit, parse_quota
from tests.daemon.harness import Bench, Installation, eventually

DONE = Succeeded({"images": []})


class Replica:
    """Pool, dispatcher, heartbeat and reclaimer of one replica; items end at a sign from the test.

    `limits` are those of the quota `q`; without any, the route has no quota.
    """

    def __init__(self, redis: Redis, *, worker: str = "w1", **limits: object) -> None:
        self.installation = Installation(redis, worker=worker)
        quotas = (parse_quota("q", limits),) if limits else ()
        self.route = Route("default", self.installation.provider, "model-1", quotas)
        self.queue, metrics = self.installation.queue, self.installation.metrics
        bench = Bench(self.queue, metrics, self._execute)
        self.limiter, self.calls, self.pool, self.bell = bench.limiter, bench.calls, bench.pool, bench.bell
        self.may_end = asyncio.Event()
        self.started: list[Run] = []
        self.dispatcher = Dispatcher(
            self.route,
            self.queue,
            self.limiter,
            self.pool,
            self.bell,
            metrics,
            bench.accounts,
            bench.gate,
            lambda _route: None,
        )
        self.heartbeat = Heartbeat(self.queue, self.limiter, self.pool, self.calls.lag, lease_s=1)
        self.reclaimer = Reclaimer(
            self.queue, Routes([self.route]), self.pool, metrics, lease_s=0, most_crashes=5
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def _execute(self, run: Run) -> Outcome:
        run.enter(Phase.CALLING)
        self.started.append(run)
        await self.may_end.wait()
        return DONE

    def dispatch(self) -> None:
        self.tasks += [asyncio.create_task(self.dispatcher.run()), asyncio.create_task(self.bell.run())]

    async def listening(self) -> bool:
        return self.bell.listening

    async def close(self) -> None:
        self.may_end.set()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.pool.drain(5, lambda: False)

    async def has_started(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.started) >= count

        await eventually(enough)

    async def has_state(self, state: str) -> None:
        """Wait until item `a` is in that state."""

        async def there() -> bool:
            return (await self.installation.record("default//a"))["state"] == state

        await eventually(there)

    async def granted(self, holder: str = "w1") -> Permit:
        """A permit for one call that may leave at once."""
        reply = await self.limiter.acquire(self.route.quotas, holder=holder, request_id="r", max_wait_s=0)
        assert isinstance(reply, Grant)
        return reply.permit

    async def claimed(self) -> Claimed:
        """Item `a`, which nothing runs."""
        await self.installation.submit({"id": "a", "prompt": "x"})
        [item] = await self.installation.claim()
        return item

    async def charges(self, book: str) -> int:
        """How many charges are in a book of the quota."""
        return int(await self.installation.redis.zcard(f"pixmill:limiter:q:{book}"))

    async def taken_over(self) -> None:
        """Let another replica take over each claimed item."""
        await self.installation.other("heir").reclaim("default", "normal", lease_s=0, cursor="0-0")
