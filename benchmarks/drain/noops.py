"""A whole replica with a no-op in the place of the provider call, and the work for it.

Everything but the call is real: validated intake, records, fair ring, claims, fenced settles, events, counts,
heartbeat, metrics.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from redis.asyncio import Redis

from benchmarks.peers import harness
from daemon.accounts.routes import Route, Routes
from daemon.callbacks.signing import Webhooks
from daemon.queue.outcomes import Outcome, Succeeded
from daemon.replica import Replica
from daemon.service import freeze_what_stays
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from daemon.worker.run import Run
from pixmill.contract import Job
from pixmill.records.keys import Keys
from providers.openai.provider import create

ROUTE = "default"
POLL_S = 0.02
AT_ONCE = 1000  # entries of one pipeline
AHEAD = 5000  # entries that wait for the intake


@dataclass(frozen=True)
class Work:
    """Items that are queued: single jobs, or `batches` of equal size. Their ids begin with `name`.

    Singles belong to `tenants` in turns. An item's prompt is its number.
    """

    items: int
    tenants: int = 1
    batches: int = 0
    name: str = "job"

    def entries(self) -> Iterator[dict[Any, Any]]:
        """The entries that a producer adds to the jobs stream, one XADD each."""
        for number in range(0 if self.batches else self.items):
            job = {"id": f"{self.name}-{number}", "prompt": str(number)}
            if self.tenants > 1:
                job["tenant"] = f"tenant-{number % self.tenants}"
            yield {"data": json.dumps(job)}
        for batch in range(self.batches):
            size = self.items // self.batches
            numbers = range(batch * size, (batch + 1) * size)
            items = [{"id": str(number), "prompt": str(number)} for number in numbers]
            payload = {"id": f"{self.name}-{batch}", "items": items}
            yield {"type": "pixmill.batch.v1", "data": json.dumps(payload)}


class Noops:
    """The replica, and what its queue holds; a connection of its own watches that."""

    def __init__(self, url: str, concurrency: int) -> None:
        settings = Settings.model_validate(
            {
                "worker": {"max_in_flight": concurrency, "max_backlog_per_tenant": 10_000_000},
                "metrics": {"listen": "127.0.0.1:0"},
            }
        )
        provider = create(base_url="http://127.0.0.1:9/v1", secrets={"api_key": "none"}, options={})
        routes = Routes([Route(ROUTE, provider, "no-op")])
        self.client = Redis.from_url(url, max_connections=concurrency + 10)
        self.keys = Keys(settings.redis.prefix)
        self.replica = Replica(settings, url, routes, ResultStore.open("memory://"), Webhooks({}, ()))
        self.replica.pool.execute = _noop
        freeze_what_stays()  # as `pixmill worker` does

    async def add(self, number: int) -> None:
        """Send one job, as a producer does."""
        await self.client.xadd(
            self.keys.jobs, {"data": json.dumps({"id": f"job-{number}", "prompt": str(number)})}
        )

    async def accept(self) -> None:
        """Let the intake alone accept what was sent."""
        async with self._accepting():
            pass

    async def fill(self, work: Work) -> None:
        """Send work and accept it."""
        before = await self.depth()
        async with self._accepting():
            entries = work.entries()
            while some := [*islice(entries, AT_ONCE)]:
                pipe = self.client.pipeline(transaction=False)
                for entry in some:
                    pipe.xadd(self.keys.jobs, entry)
                await pipe.execute()
                await self._unread_at_most(AHEAD)
        accepted = await self.depth() - before
        if accepted != work.items:
            raise RuntimeError(f"of {work.items} items {accepted} were accepted")

    @asynccontextmanager
    async def _accepting(self) -> AsyncIterator[None]:
        intake = self.replica.intake
        await intake.create_group()
        reading = asyncio.create_task(intake.run())
        yield
        await self._unread_at_most(0)
        await intake.finish()
        await reading

    async def _unread_at_most(self, entries: int) -> None:
        while await self.client.xlen(self.keys.jobs) > entries:
            await asyncio.sleep(POLL_S)

    async def depth(self) -> int:
        """The number of items that wait or run."""
        return sum(map(int, (await self.client.hgetall(self.keys.depth)).values()))

    async def stop(self) -> None:
        await self.replica.stop()
        await self.client.aclose()


async def _noop(run: Run) -> Outcome:
    job = Job.from_spec(run.item.spec)
    return Succeeded({"images": [], "value": await harness.noop(int(job.prompt))})
