"""The floor: one consumer of a stream in redis-py alone, without retries, leases or a job's record.

One connection reads batches, runs the no-ops of a batch together, and settles it in one pipeline, which
stores each result and takes the entry off the stream, as a work queue has to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from harness import RESULT_TTL_S, Contestant, Library, Run, in_keys, main, noop

STREAM = "bare:jobs"
GROUP = "workers"
BLOCK_MS = 200


@asynccontextmanager
async def opened(run: Run) -> AsyncIterator[Library]:
    client = redis.asyncio.Redis.from_url(run.url, max_connections=run.concurrency + 10)
    await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    all_done, stopping = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        done = 0
        while not stopping.is_set():
            done += await drain_batch(client, run.concurrency)
            if done == run.items:
                all_done.set()

    @asynccontextmanager
    async def working() -> AsyncIterator[asyncio.Task[None]]:
        running = asyncio.create_task(work())
        yield running
        stopping.set()  # a cancel may be lost in redis-py's blocking read
        await running

    async def drained() -> bool:
        return await all_done.wait()

    yield Library(lambda number: client.xadd(STREAM, {"number": number}), working, drained)
    await client.aclose()


async def drain_batch(client: redis.asyncio.Redis, count: int) -> int:
    """Read, run and settle up to ``count`` entries; returns how many there were."""
    reply: Any = await client.xreadgroup(GROUP, "consumer", {STREAM: ">"}, count=count, block=BLOCK_MS)
    ids = [entry_id for _, entries in reply for entry_id, _ in entries]
    numbers = [int(fields[b"number"]) for _, entries in reply for _, fields in entries]
    if not ids:
        return 0
    results = await asyncio.gather(*(noop(number) for number in numbers))
    async with client.pipeline(transaction=False) as pipe:
        for number, result in zip(numbers, results, strict=True):
            pipe.set(f"bare:result:{number}", result, ex=RESULT_TTL_S)
        pipe.xack(STREAM, GROUP, *ids)
        pipe.xdel(STREAM, *ids)
        await pipe.execute()
    return len(ids)


if __name__ == "__main__":
    main(Contestant("bare", "redis", in_keys("bare:result:*", int), opened))
