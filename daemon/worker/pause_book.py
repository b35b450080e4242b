"""Keeps the pauses of the fleet and of routes for a replica.

They are read at the start, when the bell says `pause`, and once a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog
from redis.asyncio import Redis

from daemon.broker.loops import run_forever
from daemon.queue.bell import LOOK_EVERY_S
from daemon.queue.pauses import FLEET, Pause, read_pauses
from pixmill.records.keys import Keys

log = structlog.get_logger(__name__)


class PauseBook:
    """A replica's knowledge of the pauses of the fleet and of routes.

    `known` is set after the first reading; no call may begin before it. `rung` is the bell's event. `on_change` is
    called when a pause begins or ends.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        *,
        rung: asyncio.Event,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.known = asyncio.Event()
        self._client = client
        self._keys = keys
        self._rung = rung
        self._on_change = on_change
        self._clock = clock
        self._pauses: dict[str, Pause] = {}
        self._read_at = 0.0

    async def run(self) -> None:
        await run_forever("pause book", self._step)

    def over(self, route: str) -> Pause | None:
        """The pause that holds the route back now. Between two readings this machine's clock decides when it ends."""
        passed_s = self._clock() - self._read_at
        for name in (FLEET, f"route:{route}"):
            if (pause := self._pauses.get(name)) is None:
                continue
            if pause.ends_s is None:
                return pause
            if pause.ends_s > passed_s:
                return replace(pause, ends_s=pause.ends_s - passed_s)
        return None

    async def read(self) -> None:
        """Read the pauses now."""
        pauses = await read_pauses(self._client, self._keys)
        self._read_at = self._clock()
        before, self._pauses = self._pauses, pauses
        self.known.set()
        if before.keys() != pauses.keys():
            log.info("pauses changed", paused=sorted(pauses))
            self._on_change()

    async def _step(self) -> None:
        self._rung.clear()
        await self.read()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._rung.wait()
