"""Removes the names of dead replicas from the consumer groups, and counts again what was counted wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue

log = structlog.get_logger(__name__)

RECOUNT_S = 60.0
COUNTED = 2000  # records in one step, so that it stays short
BREATH_S = 0.05  # between two steps, for the other work of Redis
IDLE_LEASES = 5  # by then other replicas have taken over the pending entries of a dead one


class Janitor:
    """Looks for such names once per lease on every replica, and at the counts once a minute on one of the fleet."""

    def __init__(self, queue: Queue, routes: Collection[str], *, lease_s: float) -> None:
        self._queue = queue
        self._routes = routes
        self._lease_s = lease_s

    async def run(self) -> None:
        await run_forever("janitor", self._step)

    async def _step(self) -> None:
        await self.forget()
        if await self._queue.take_recount(RECOUNT_S):
            await self.recount()
        await asyncio.sleep(self._lease_s)

    async def recount(self) -> int:
        """Put wrong counts right; returns how many there were."""
        wrong, group = 0, 0
        for route in self._routes:
            wrong += await self._queue.recount_route(route, most=COUNTED)
        while group >= 0:
            found, group = await self._queue.recount_groups(group, most=COUNTED)
            wrong += found
            await asyncio.sleep(BREATH_S)
        if wrong:
            log.warning("counts were wrong and are right again", counts=wrong)
        return wrong

    async def forget(self) -> int:
        """Remove idle names without pending entries, since each start adds a name; returns how many."""
        forgotten = await self._queue.forget(self._routes, idle_s=IDLE_LEASES * self._lease_s)
        if forgotten:
            log.info("removed the names of dead replicas from the groups", names=forgotten)
        return forgotten
