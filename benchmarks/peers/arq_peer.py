"""arq: one `Worker` in this process, up to `max_jobs` jobs at once.

Its queue is a sorted set that the worker polls. The default `poll_delay` of 0.5 s would add waiting to the
figures; from 100 ms down to 0, and with a `queue_read_limit` from 100 to 2000, the drain takes the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import harness
from arq import create_pool
from arq.connections import RedisSettings
from arq.constants import default_queue_name
from arq.jobs import deserialize_result
from arq.worker import Worker
from harness import RESULT_TTL_S, Contestant, Library, Run, in_keys, main

POLL_DELAY_S = 0.01


async def noop(ctx: dict[str, object], number: int) -> int:  # noqa: ARG001 (arq passes its context)
    return await harness.noop(number)


@asynccontextmanager
async def opened(run: Run) -> AsyncIterator[Library]:
    pool = await create_pool(RedisSettings.from_dsn(run.url))

    @asynccontextmanager
    async def working() -> AsyncIterator[asyncio.Task[None]]:
        worker = Worker(
            functions=[noop],
            redis_pool=pool,
            max_jobs=run.concurrency,
            poll_delay=POLL_DELAY_S,
            keep_result=RESULT_TTL_S,
            log_results=False,
            handle_signals=False,
        )
        yield asyncio.create_task(worker.async_run())
        await worker.close()

    async def drained() -> bool:
        # A job leaves the queue in the transaction that stores its result.
        return bool(await pool.zcard(default_queue_name) == 0)

    yield Library(lambda number: pool.enqueue_job("noop", number), working, drained)


def returned(stored: bytes) -> object:
    result = deserialize_result(stored)
    return result.result if result.success else None


if __name__ == "__main__":
    main(Contestant("arq", "arq", in_keys("arq:result:*", returned), opened))
