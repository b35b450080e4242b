"""docket: one `Worker` in this process.

While all of its slots are taken it sleeps for `minimum_check_interval`. The default of 0.25 s would hold 100 slots
to 400 items a second; 1 ms is the least that its blocking read takes. Results are pickled by docket.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import cloudpickle
import redis.asyncio
from docket import Docket, Worker
from harness import RESULT_TTL_S, Contestant, Library, Run, in_keys, main, noop

CHECK_INTERVAL = timedelta(milliseconds=1)


@asynccontextmanager
async def opened(run: Run) -> AsyncIterator[Library]:
    client = redis.asyncio.Redis.from_url(run.url)
    url = f"{run.url}?max_connections={2 * run.concurrency + 10}"  # redis-py's 100 are too few
    async with Docket(url=url, execution_ttl=timedelta(seconds=RESULT_TTL_S)) as docket:
        docket.register(noop)

        @asynccontextmanager
        async def working() -> AsyncIterator[asyncio.Task[None]]:
            async with Worker(
                docket, concurrency=run.concurrency, minimum_check_interval=CHECK_INTERVAL
            ) as worker:
                running = asyncio.create_task(worker.run_forever())
                yield running
            await running

        async def drained() -> bool:
            # An entry leaves the stream after its result is stored.
            return bool(await client.xlen(docket.stream_key) == 0)

        yield Library(lambda number: docket.add("noop")(number), working, drained)
    await client.aclose()


def returned(stored: bytes) -> object:
    return cloudpickle.loads(base64.b64decode(json.loads(stored)["value"]["data"]))


if __name__ == "__main__":
    main(Contestant("docket", "pydocket", in_keys("docket:results:*", returned), opened))
