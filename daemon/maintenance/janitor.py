"""Removes the names of dead replicas from the consumer groups, and counts again what was counted wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from math import inf

import structlog

from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue

log = structlog.get_logger(__name__)

RECOUNT_S = 60.0
COUNTED = 2000  # items of a route or a batch in one step, so that it stays short
IDLE_LEASES = 5  # by then other replicas have taken over the pending entries of a dead one


class Janitor:
    """Looks for such names once per lease, and at the counts once a minute, on every replica."""

    def __init__(self, queue: Queue, routes: Collection[str], *, lease_s: float) -> None:
        self._queue = queue
        self._routes = routes
        self._lease_s = lease_s
        self._recounted_at = -inf  # monotonic

    async def run(self) -> None:
        await run_forever("janitor", self._step)

    async def _step(self) -> None:
        await self.forget()
        if time.monotonic() - self._recounted_at >= RECOUNT_S:
            self._recounted_at = time.monotonic()
            await self.recount()
        await asyncio.sleep(self._lease_s)

    async def recount(self) -> int:
        """Put wrong counts right; returns how many there were."""
        wrong = await self._queue.recount(self._routes, most=COUNTED)
        if wrong:
            log.warning("counts were wrong and are right again", counts=wrong)
        return wrong

    async def forget(self) -> int:
        """Remove idle names without pending entries, since each start adds a name; returns how many."""
        forgotten = await self._queue.forget(self._routes, idle_s=IDLE_LEASES * self._lease_s)
        if forgotten:
            log.info("removed the names of dead replicas from the groups", names=forgotten)
        return forgotten
