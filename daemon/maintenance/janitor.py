"""Removes the names of dead replicas from the consumer groups."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue

log = structlog.get_logger(__name__)

IDLE_LEASES = 5  # by then what was pending under a dead name is in other hands


class Janitor:
    """Every replica runs one; it looks once a lease."""

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
        """Take off what is idle with nothing pending: each start has a name of its own. Returns how many names."""
        forgotten = await self._queue.forget(self._routes, idle_s=IDLE_LEASES * self._lease_s)
        if forgotten:
            log.info("took names of dead replicas off the groups", names=forgotten)
        return forgotten
