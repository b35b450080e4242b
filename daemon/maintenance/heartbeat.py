"""Renews every entry and limiter lease of this replica in one round, until the last run is settled; it stops last."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from redis.exceptions import RedisError

from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue
from daemon.worker.pool import Pool
from limiter import Lag, Limiter


class Heartbeat:
    """Three renewals a lease, so two may be lost before another replica takes our items over."""

    def __init__(self, queue: Queue, limiter: Limiter, running: Pool, lag: Lag, *, lease_s: float) -> None:
        self._queue = queue
        self._limiter = limiter
        self._running = running
        self._lag = lag
        self._every_s = lease_s / 3

    async def run(self) -> None:
        # A pause that is longer than a lease would lose what is ours when Redis comes back.
        await run_forever("heartbeat", self._step, longest_pause_s=self._every_s)

    async def _step(self) -> None:
        await asyncio.sleep(self._every_s)
        await self.beat()
        if (spread_us := self._lag.spread_us) is not None:
            # A hint, which a Redis without memory refuses; only the beat matters.
            with suppress(RedisError):
                await self._limiter.report_spread(spread_us)

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
