"""Pixmill's own script for the contests of `benchmarks/peers/harness.py`.

In the drain it has accepted all items before its replica starts, so intake is timed apart, as the peers' enqueueing is.
For its latency the replica runs, and one XADD is one job.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio

from benchmarks.drain.noops import Noops
from benchmarks.peers import harness
from benchmarks.peers.harness import Contestant, Library, Run
from daemon.telemetry.logs import configure_logs


@asynccontextmanager
async def opened(run: Run) -> AsyncIterator[Library]:
    noops = Noops(run.url, run.concurrency)

    @asynccontextmanager
    async def working() -> AsyncIterator[asyncio.Task[Any]]:
        await noops.replica.start()
        forever = asyncio.create_task(asyncio.Event().wait())
        yield forever
        forever.cancel()

    async def drained() -> bool:
        return await noops.depth() == 0

    yield Library(noops.add, working, drained, noops.accept)
    await noops.stop()


async def stored(client: redis.asyncio.Redis) -> list[object]:
    """The values of all items that have succeeded."""
    values: list[object] = []
    async for key in client.scan_iter(match="pixmill:item:default//*", count=1000):
        state, result = await client.hmget(key, ["state", "result"])
        values += [json.loads(result)["value"]] if state == b"succeeded" and result else []
    return values


if __name__ == "__main__":
    configure_logs(level="warning")
    harness.main(Contestant("pixmill", "pixmill", stored, opened))
