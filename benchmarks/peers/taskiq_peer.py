"""taskiq: `RedisStreamBroker` (acks once the result is saved) with `RedisAsyncResultBackend`.

The receiver runs in this process: it is what `taskiq worker --workers 1 --max-async-tasks N` runs in its
child, and was no slower than that. Messages and results go through taskiq's orjson serializer (some 4 %
faster than its defaults); larger reads and prefetching made no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import redis.asyncio
from harness import RESULT_TTL_S, Contestant, Library, Run, in_keys, main, noop
from taskiq.receiver import Receiver
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

QUEUE = "taskiq"
RESULTS = "taskiq:result"
END_S = 5.0  # a reader may stand in its blocking read, and never see that it is to end


@asynccontextmanager
async def opened(run: Run) -> AsyncIterator[Library]:
    broker = make_broker(run)
    task = broker.register_task(noop, task_name="noop")
    await broker.startup()
    client = redis.asyncio.Redis.from_url(run.url)

    @asynccontextmanager
    async def working() -> AsyncIterator[asyncio.Task[None]]:
        broker.is_worker_process = True
        finish = asyncio.Event()
        with ThreadPoolExecutor() as executor:
            receiver = Receiver(broker, executor, max_async_tasks=run.concurrency, run_startup=False)
            running = asyncio.create_task(receiver.listen(finish))
            yield running
            finish.set()
            await asyncio.wait([running], timeout=END_S)
            running.cancel()

    async def drained() -> bool:
        # An entry is acked after its result is saved.
        (group,) = await client.xinfo_groups(QUEUE)
        return bool(group["lag"] == 0 and group["pending"] == 0)

    yield Library(task.kiq, working, drained)
    await client.aclose()
    await broker.shutdown()


def make_broker(run: Run) -> RedisStreamBroker:
    connections = run.concurrency + 10
    results: RedisAsyncResultBackend[int] = RedisAsyncResultBackend(
        run.url,
        result_ex_time=RESULT_TTL_S,
        prefix_str=RESULTS,
        max_connection_pool_size=connections,
        serializer=ORJSONSerializer(),
    )
    # Its default group position "$" would skip messages that were enqueued before the group existed.
    broker = RedisStreamBroker(
        run.url, queue_name=QUEUE, consumer_id="0", max_connection_pool_size=connections
    )
    return broker.with_serializer(ORJSONSerializer()).with_result_backend(results)


def returned(stored: bytes) -> object:
    result = ORJSONSerializer().loadb(stored)
    return None if result["is_err"] else result["return_value"]


if __name__ == "__main__":
    main(Contestant("taskiq", "taskiq-redis", in_keys(f"{RESULTS}:*", returned), opened))
