"""Starts what is due: retries, not-before items, expiries, progress events, and the retention of ended batches.

Every replica runs it; the scripts let each change happen once.
"""

from __future__ import annotations

import asyncio

import orjson
import structlog
from redis.asyncio import Redis

from daemon.broker.loops import run_forever
from daemon.maintenance.eta import Estimator
from daemon.queue.queue import Queue
from daemon.queue.steps import Steps
from daemon.telemetry.metrics import Metrics
from pixmill.records.counts import GroupCounts

log = structlog.get_logger(__name__)

DUE_LOOK_S = 0.5  # also the longest delay of an expiry
PROGRESS_GAP_S = 0.5
CLOSE_LOOK_S = 2.0
COUNT_LOOK_S = 1.0


class Scheduler:
    """Runs four small loops."""

    def __init__(self, client: Redis, queue: Queue, estimator: Estimator, metrics: Metrics) -> None:
        self._call = Steps(client, queue.keys.prefix)
        self._queue = queue
        self._estimator = estimator
        self._metrics = metrics

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(run_forever("due", self._due))
            group.create_task(run_forever("progress", self._progress))
            group.create_task(run_forever("retention", self._close))
            group.create_task(run_forever("ended", self._ended))

    async def _due(self) -> None:
        _, next_s = await self._queue.due()
        await asyncio.sleep(DUE_LOOK_S if next_s is None else min(next_s, DUE_LOOK_S))

    async def _ended(self) -> None:
        await self.count_ended()
        await asyncio.sleep(COUNT_LOOK_S)

    async def count_ended(self) -> None:
        """Count items that ended while they waited; the replica that runs an item counts that end itself."""
        for (route, outcome), count in (await self._queue.take_ended()).items():
            self._metrics.jobs_finished.labels(route=route, outcome=outcome).inc(count)

    async def _progress(self) -> None:
        for counts in await self._queue.progress(gap_s=PROGRESS_GAP_S):
            await self._publish(counts)
        await asyncio.sleep(PROGRESS_GAP_S)

    async def _publish(self, counts: GroupCounts) -> None:
        estimate = await self._estimator.batch(counts)
        body = orjson.dumps(
            {
                "counts": counts.by_state(),
                "progress": round(counts.ended / counts.total, 4) if counts.total else 1.0,
                "eta_seconds": estimate.eta_s,
                "bound": estimate.bound,
            }
        )
        tenant, batch = counts.gid.split("/", 1)
        named = {"event": "batch.progress", "tenant": tenant, "batch": batch, "head": counts.head}
        if not await self._call("publish", body[1:-1], **named):
            # Its name ends with the batch's id, so it may be somebody's key.
            log.warning("the stream of a batch cannot be written", batch=batch)

    async def _close(self) -> None:
        while await self._queue.close_groups():
            pass
        await asyncio.sleep(CLOSE_LOOK_S)
