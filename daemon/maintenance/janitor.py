"""Removes the names of dead replicas from the consumer groups."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue

log = structlog.get_logger(__name__)

IDLE_LEASES = 5  # by then other replicas have taken over the pending entries of a dead one


class Janitor:
    """Looks for such names once per lease, on every replica."""

    def __init__(self, queue: Queue, routes: Collection[str], *, lease_s: float) -> None:
        self._queue = queue
        self._routes = routes
        self._lease_s = lease_s

    async def run(self) -> None:
        await run_forever("janitor", self._step)

    async def _step(self) -> None:
        await self.forget()
        await asyncio.sleep(self._lease_s)

    async def forget(self) -> int:
        """Remove idle names without pending entries, since each start adds a name; returns how many."""
        forgotten = await self._queue.forget(self._routes, idle_s=IDLE_LEASES * self._lease_s)
        if forgotten:
            log.info("removed the names of dead replicas from the groups", names=forgotten)
        return forgotten
