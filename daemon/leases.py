"""Keep what is ours, take over what is orphaned.

The heartbeat renews every entry and limiter lease of this replica in one round, until the last run is settled; it
stops last. The reclaimer takes entries that nobody renewed for a lease, with a cursor of its own for each stream.
"""

from __future__ import annotations

import asyncio

import structlog

from daemon.keys import LANES
from daemon.loops import run_forever
from daemon.metrics import Metrics
from daemon.queue import Claimed, Queue
from daemon.routes import Routes
from daemon.running import Running
from limiter.limiter import Limiter, Permit

log = structlog.get_logger(__name__)


class Heartbeat:
    """Three renewals a lease, so two may be lost before anybody thinks we are gone."""

    def __init__(self, queue: Queue, limiter: Limiter, running: Running, *, lease_s: float) -> None:
        self._queue = queue
        self._limiter = limiter
        self._running = running
        self._every_s = lease_s / 3

    async def run(self) -> None:
        await run_forever("heartbeat", self._step)

    async def _step(self) -> None:
        await asyncio.sleep(self._every_s)
        await self.beat()

    async def beat(self) -> None:
        """Renew everything now; a run that is not ours any more is stopped before it can send anything."""
        runs = self._running.current()
        if not runs:
            return
        permits = [run.permit for run in runs if run.permit is not None]
        states, _ = await asyncio.gather(
            self._queue.renew([run.item for run in runs]), self._limiter.renew(permits)
        )
        for run, state in zip(runs, states, strict=True):
            if state == "lost":
                self._running.abandon(run)
            elif state == "cancel":
                run.cancel_requested.set()


class Reclaimer:
    """Looks through the pending entries of every route's streams, a page at a time."""

    def __init__(
        self,
        queue: Queue,
        routes: Routes,
        running: Running,
        metrics: Metrics,
        *,
        lease_s: float,
        most_deliveries: int,
    ) -> None:
        self._queue = queue
        self._routes = routes
        self._running = running
        self._metrics = metrics
        self._lease_s = lease_s
        self._most_deliveries = most_deliveries
        self._cursors: dict[tuple[str, str], str] = {}

    async def run(self) -> None:
        await run_forever("reclaimer", self._step)

    async def _step(self) -> None:
        await self.sweep()
        await asyncio.sleep(min(self._lease_s / 3, 1.0))

    async def sweep(self) -> int:
        """One page of every stream; returns how many orphans were taken over."""
        taken = 0
        for route in self._routes.values():
            for lane in LANES:
                cursor = self._cursors.get((route.name, lane), "0-0")
                page = await self._queue.reclaim(
                    route.name,
                    lane,
                    lease_s=self._lease_s,
                    cursor=cursor,
                    most_deliveries=self._most_deliveries,
                )
                self._cursors[route.name, lane] = page.cursor
                for item in page.items:
                    self._running.start(item, route, _permit_of(item), adopted=True)
                if page.poisoned:
                    self._metrics.dead_letters.labels(reason="poison").inc(page.poisoned)
                taken += len(page.items)
        if taken:
            self._metrics.reclaimed.inc(taken)
            log.warning("took over items of a silent worker", items=taken)
        return taken


def _permit_of(item: Claimed) -> Permit | None:
    return Permit.from_json(item.permit) if item.permit else None
