"""Tidies up what no run does: names of dead replicas in the groups, and counts that older replicas left wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue

log = structlog.get_logger(__name__)

IDLE_LEASES = 5  # by then what was pending under a dead name is in other hands
RECOUNT_LEASES = 40


class Janitor:
    """Every replica runs one; it looks once a lease."""

    def __init__(self, queue: Queue, routes: Collection[str], *, lease_s: float) -> None:
        self._queue = queue
        self._routes = routes
        self._lease_s = lease_s
        self._looks = 0

    async def run(self) -> None:
        await run_forever("janitor", self._step)

    async def _step(self) -> None:
        await self.forget()
        if self._looks % RECOUNT_LEASES == 0:
            await self.recount()
        self._looks += 1
        await asyncio.sleep(self._lease_s)

    async def forget(self) -> int:
        """Take off what is idle with nothing pending: each start has a name of its own. Returns how many names."""
        forgotten = await self._queue.forget(self._routes, idle_s=IDLE_LEASES * self._lease_s)
        if forgotten:
            log.info("took names of dead replicas off the groups", names=forgotten)
        return forgotten

    async def recount(self) -> None:
        """Correct how many items of a tenant wait, where that has a cap."""
        if not self._queue.max_backlog_per_tenant:
            return
        wrong = await self._queue.recount()
        if wrong > 0:
            log.warning("counts of waiting items were wrong and are corrected", tenants=wrong)
        elif wrong < 0:
            log.info("too many items wait to look whether they are counted right")
