"""The floor: one consumer of a stream in redis-py alone, without retries, leases or a job's record.

One connection reads batches, runs the no-ops of a batch together, and settles it in one pipeline, which
stores each result and takes the entry off the stream, as a work queue has to.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio
from harness import RESULT_TTL_S, Contestant, Run, Timings, Watch, main

STREAM = "bare:jobs"
GROUP = "workers"


async def noop(number: int) -> int:
    return number


async def drain(run: Run) -> Timings:
    client = redis.asyncio.Redis.from_url(run.url)
    await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    watch = Watch(run)
    await enqueue(client, run)
    watch.enqueued()
    left = run.items
    while left:
        left -= await drain_batch(client, run.concurrency)
    timings = watch.drained()
    await client.aclose()
    return timings


async def enqueue(client: redis.asyncio.Redis, run: Run) -> None:
    for first in range(0, run.items, run.concurrency):
        async with client.pipeline(transaction=False) as pipe:
            for number in range(first, min(first + run.concurrency, run.items)):
                pipe.xadd(STREAM, {"number": number})
            await pipe.execute()


async def drain_batch(client: redis.asyncio.Redis, count: int) -> int:
    """Read, run and settle up to ``count`` entries; returns how many there were."""
    reply: Any = await client.xreadgroup(GROUP, "consumer", {STREAM: ">"}, count=count, block=1000)
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
    main(Contestant("bare", "redis", "bare:result:*", int, drain))
