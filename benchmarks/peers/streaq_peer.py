"""streaq: one `Worker` in this process, on coredis, whose consumers each run one task at a time.

Tasks and results go through orjson. It prefetches as many tasks as it runs, which is its default.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import redis.asyncio
from harness import RESULT_TTL_S, Contestant, Library, Run, in_keys, main, noop, running
from streaq import Worker

STREAM = "streaq:default:queues:normal"


@asynccontextmanager
async def opened(run: Run) -> AsyncIterator[Library]:
    producer, worker = make_worker(run), make_worker(run)
    task, _ = (one.task(ttl=RESULT_TTL_S, silent=True)(noop) for one in (producer, worker))
    client = redis.asyncio.Redis.from_url(run.url)

    async def drained() -> bool:
        # An entry leaves the stream in the transaction that stores its result.
        return bool(await client.xlen(STREAM) == 0)

    async with producer:
        yield Library(task.enqueue, lambda: running(worker.run_async()), drained)
    await client.aclose()


def make_worker(run: Run) -> Worker[None]:
    return Worker(run.url, concurrency=run.concurrency, serializer=orjson.dumps, deserializer=orjson.loads)


def returned(stored: bytes) -> object:
    result = orjson.loads(stored)
    return result["r"] if result["s"] else None


if __name__ == "__main__":
    main(Contestant("streaq", "streaq", in_keys("streaq:default:task:results:*", returned), opened))
