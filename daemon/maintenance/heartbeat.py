"""Renews all entries and limiter leases of this replica until its last run is settled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from redis.exceptions import RedisError

from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue
from daemon.worker.pool import Pool
from daemon.worker.run import Run
from limiter import Lag, Limiter


class Heartbeat:
    """Renews three times per lease, so two renewals may be lost before another replica takes our items over."""

    def __init__(self, queue: Queue, limiter: Limiter, running: Pool, lag: Lag, *, lease_s: float) -> None:
        self._queue = queue
        self._limiter = limiter
        self._running = running
        self._lag = lag
        self._every_s = lease_s / 3

    async def run(self) -> None:
        # After an outage of Redis, a pause longer than a lease would lose our items.
        await run_forever("heartbeat", self._step, longest_pause_s=self._every_s)

    async def _step(self) -> None:
        await asyncio.sleep(self._every_s)
        await self.beat()
        if (spread_us := self._lag.spread_us) is not None:
            # The spread is only a hint; a Redis without memory refuses it.
            with suppress(RedisError):
                await self._limiter.report_spread(spread_us)

    async def beat(self) -> None:
        """Renew everything now, and stop runs that lost their lease before they can send a call."""
        runs = self._running.current()
        if not runs:
            return
        permits = [run.permit for run in runs if run.permit is not None]
        states, _ = await asyncio.gather(
            self._queue.renew([run.item for run in runs], [run.noted for run in runs]),
            self._limiter.renew(permits),
        )
        # At the same time, so that all notes share a few round trips: a loss of Redis concerns every run.
        await asyncio.gather(*(self._follow(run, state) for run, state in zip(runs, states, strict=True)))

    async def _follow(self, run: Run, state: str) -> None:
        if state == "lost":
            await self._running.hand_in(run)
            self._running.abandon(run)
        elif state == "bare":
            await self._running.note_again(run)
        elif state == "cancel":
            run.cancel_requested.set()
