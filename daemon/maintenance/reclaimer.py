"""Takes over entries that were not renewed for a lease, with one cursor per stream."""

from __future__ import annotations

import asyncio

import structlog
from redis.exceptions import RedisError

from daemon.accounts.routes import Route, Routes
from daemon.broker.loops import run_forever
from daemon.queue.messages import FOREVER_US, Claimed, Reclaimed
from daemon.queue.queue import Queue
from daemon.telemetry.metrics import Metrics
from daemon.worker.pool import Pool
from limiter import Permit
from limiter.script import uninterrupted
from pixmill.records.keys import CACHED, LANES

log = structlog.get_logger(__name__)

# Pages per stream and sweep, 1,000 entries each: one sweep finds an orphan behind thousands of live entries.
MOST_PAGES = 10
START = "0-0"  # the cursor at the beginning, and also after the end


class Reclaimer:
    """Looks through the pending entries of every route's streams, some pages at a time.

    The idle time of an entry also grows while Redis is unreachable. So after any disturbance or a start of the server,
    nothing is taken over until all live replicas have had a lease's time to renew.
    """

    def __init__(
        self,
        queue: Queue,
        routes: Routes,
        running: Pool,
        metrics: Metrics,
        *,
        lease_s: float,
        most_crashes: int,
    ) -> None:
        self._queue = queue
        self._routes = routes
        self._running = running
        self._metrics = metrics
        self._lease_s = lease_s
        self._most_crashes = most_crashes
        self._cursors: dict[tuple[str, str], str] = {}
        self._last_us: int | None = None
        self._calm_us: int | None = None  # start of the present undisturbed time, by the server's clock

    async def run(self) -> None:
        await run_forever("reclaimer", self._step)

    async def _step(self) -> None:
        try:
            await self.watch()
        except RedisError:
            self._calm_us = None
            raise
        await asyncio.sleep(min(self._lease_s / 4, 1.0))

    async def watch(self) -> int:
        """Sweep if the last lease's time was undisturbed; returns how many orphans were taken over."""
        now_us = await self._queue.now_us()
        lease_us = round(self._lease_s * 1e6)
        if self._last_us is None:
            # This replica has just started: the undisturbed time is the uptime of the server.
            self._calm_us = now_us - round(await self._queue.server_uptime_s() * 1e6)
        elif self._calm_us is None or not 0 <= now_us - self._last_us <= lease_us // 2:
            self._calm_us = now_us
        self._last_us = now_us
        if now_us - self._calm_us < lease_us:
            return 0
        return await self.sweep(not_after_us=now_us + lease_us // 2)

    async def sweep(self, *, not_after_us: int = FOREVER_US) -> int:
        """Look through every stream, from where the last sweep stopped; returns how many orphans were taken over."""
        taken = 0
        for route in self._routes.values():
            for lane in (*LANES, CACHED):
                for _ in range(MOST_PAGES):
                    # A stop waits for the reply: otherwise the items would wait for one more lease.
                    page = await uninterrupted(self._page(route, lane, not_after_us))
                    taken += len(page.items)
                    # A page with orphans is enough for one replica; the others take the rest.
                    if page.items or page.cursor == START:
                        break
        if taken:
            self._metrics.reclaimed.inc(taken)
            log.warning("took over items of a silent worker", items=taken)
        return taken

    async def _page(self, route: Route, lane: str, not_after_us: int) -> Reclaimed:
        page = await self._queue.reclaim(
            route.name,
            lane,
            lease_s=self._lease_s,
            cursor=self._cursors.get((route.name, lane), START),
            not_after_us=not_after_us,
            most_crashes=self._most_crashes,
        )
        self._cursors[route.name, lane] = page.cursor
        for item in page.items:
            owner = route if lane == CACHED else self._routes.get(item.via, route)  # a copy uses no account
            self._running.start(item, owner, _permit_of(item), adopted=True, line=route.name)
        if page.poisoned:
            self._metrics.dead_letters.labels(reason="poison").inc(page.poisoned)
            self._metrics.jobs_finished.labels(route=route.name, outcome="failed").inc(page.poisoned)
        for charged in page.calls:
            self._metrics.provider_calls.labels(provider=route.provider.name, charged=charged).inc()
        return page


def _permit_of(item: Claimed) -> Permit | None:
    try:
        return Permit.from_json(item.permit) if item.permit else None
    except ValueError:
        # The lease of the permit ends by itself, and the item goes on without it.
        log.warning("a permit cannot be read; taken over without it", item=item.uid)
        return None
