"""Renews all entries and limiter leases of this replica until its last run is settled."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from redis.exceptions import RedisError

from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue
from daemon.worker.pool import Pool
from daemon.worker.run import Run
from limiter import Lag, Limiter, Permit


class Heartbeat:
    """Renews three times per lease, and again soon after a failure.

    So an outage of Redis may last two thirds of a lease before another replica can take our items or places.
    """

    def __init__(self, queue: Queue, limiter: Limiter, running: Pool, lag: Lag, *, lease_s: float) -> None:
        self._queue = queue
        self._limiter = limiter
        self._running = running
        self._lag = lag
        self._every_s = lease_s / 3
        self._young_s = lease_s / 4

    async def run(self) -> None:
        # After an outage of Redis, a long pause would lose our items.
        await run_forever("heartbeat", self._step, longest_pause_s=self._every_s / 4)

    async def _step(self) -> None:
        await self.beat()
        if (spread_us := self._lag.spread_us) is not None:
            # The spread is only a hint; a Redis without memory refuses it.
            with suppress(RedisError):
                await self._limiter.report_spread(spread_us)
        await asyncio.sleep(self._every_s)

    async def beat(self) -> None:
        """Renew everything now, and stop runs that lost their lease before they can send a call."""
        runs = self._running.current()
        if not runs:
            return
        permits = [permit for run in runs if (permit := self._to_renew(run)) is not None]
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

    def _to_renew(self, run: Run) -> Permit | None:
        """The run's permit, unless its lease is so young that it needs no renewal before the next beat.

        Most calls end before their first renewal is due. The lease of an adopted permit may end at any time.
        """
        young = not run.adopted and time.monotonic() - run.leaves_at < self._young_s
        return None if young else run.permit
