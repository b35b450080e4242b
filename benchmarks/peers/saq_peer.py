"""saq: one `Worker` in this process, whose `concurrency` coroutines each wait in a blocking read of a list.

`max_concurrent_ops` would hold the reads of job records to 20 at a time: it is raised to the concurrency
(some 15 % faster). Job records go through orjson by way of `dump` and `load` (no clear difference).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import harness
import orjson
from harness import RESULT_TTL_S, Contestant, Library, Run, in_keys, main
from saq import Queue, Worker
from saq.types import Context


async def noop(ctx: Context, *, number: int) -> int:  # noqa: ARG001 (saq passes its context)
    return await harness.noop(number)


@asynccontextmanager
async def opened(run: Run) -> AsyncIterator[Library]:
    queue = Queue.from_url(run.url, max_concurrent_ops=run.concurrency, dump=orjson.dumps, load=orjson.loads)
    await queue.connect()

    @asynccontextmanager
    async def working() -> AsyncIterator[asyncio.Task[None]]:
        # A starting worker also sweeps. It takes jobs that were just read, but are not yet marked active, for lost
        # (tobymao/saq#277): with a backlog waiting it aborts one or two. A sweep now holds the next one off
        # for 60 s.
        await queue.sweep()
        worker = Worker(queue, functions=[noop], concurrency=run.concurrency)
        running = asyncio.create_task(worker.start())
        yield running
        await worker.stop()
        await running

    async def drained() -> bool:
        # A job leaves this count in the transaction that stores its result.
        return await queue.count("incomplete") == 0

    yield Library(lambda number: queue.enqueue("noop", number=number, ttl=RESULT_TTL_S), working, drained)
    await queue.disconnect()


def returned(stored: bytes) -> object:
    record = orjson.loads(stored)
    return record["result"] if record["status"] == "complete" else None


if __name__ == "__main__":
    main(Contestant("saq", "saq", in_keys("saq:job:*", returned), opened))
