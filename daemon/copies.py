"""Copies of pictures that are there already: claimed without a permit, since no provider is asked.

They begin also where all worker slots are taken: a copy takes milliseconds, a call that it would wait for a minute.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.bell import Bell
from daemon.dispatcher import LOOK_EVERY_S
from daemon.keys import CACHED, WITHOUT_CALLS
from daemon.loops import run_forever, uninterrupted
from daemon.queue import Queue
from daemon.routes import Route
from daemon.running import Running
from daemon.storage_gate import StorageGate

AT_ONCE = 8


class Copies:
    """Claims what the lane `cached` of every route has, at most `AT_ONCE` at a time, while the store can be read.

    And of the lane `joined`, where only a replica of an older version puts anything: the claim puts that right.
    """

    def __init__(
        self, routes: Iterable[Route], queue: Queue, running: Running, bell: Bell, gate: StorageGate
    ) -> None:
        self._routes = routes
        self._queue = queue
        self._running = running
        self._bell = bell
        self._gate = gate

    async def run(self) -> None:
        await run_forever("copies", self.step)

    async def step(self) -> None:
        """Claim once from every route; wait for the bell where there was nothing to claim, or no room."""
        if self._gate.closed:
            await self._gate.wait_open(LOOK_EVERY_S)
            return
        found = 0
        for route in self._routes:
            for lane in WITHOUT_CALLS:
                if self._room and await self._queue.waiting(route.name, (lane,)):
                    found += await uninterrupted(self._claim(route, lane))
        if not found:
            await self._bell.wait(CACHED, LOOK_EVERY_S)

    @property
    def _room(self) -> int:
        return AT_ONCE - sum(run.item.lane == CACHED for run in self._running.current())

    async def _claim(self, route: Route, lane: str) -> int:
        claim = await self._queue.claim(route.name, self._room, lanes=(lane,))
        for item in claim.items:
            self._running.start(item, route, None)
        return len(claim.items)
