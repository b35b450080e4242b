"""taskiq: `RedisStreamBroker` (acks once the result is saved) with `RedisAsyncResultBackend`.

The receiver runs in this process: it is what `taskiq worker --workers 1 --max-async-tasks N` runs in its
child, and was no slower than that. Messages and results go through taskiq's orjson serializer (some 4 %
faster than its defaults); larger reads and prefetching made no difference.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import redis.asyncio
from harness import RESULT_TTL_S, Contestant, Run, Timings, Watch, enqueue_all, main, until
from taskiq.receiver import Receiver
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

QUEUE = "taskiq"
RESULTS = "taskiq:result"


async def noop(number: int) -> int:
    return number


async def drain(run: Run) -> Timings:
    broker = make_broker(run)
    task = broker.register_task(noop, task_name="noop")
    await broker.startup()
    watch = Watch(run)
    await enqueue_all(run, task.kiq)
    watch.enqueued()
    broker.is_worker_process = True
    client = redis.asyncio.Redis.from_url(run.url)
    finish = asyncio.Event()
    with ThreadPoolExecutor() as executor:
        receiver = Receiver(broker, executor, max_async_tasks=run.concurrency, run_startup=False)
        running = asyncio.create_task(receiver.listen(finish))

        async def drained() -> bool:
            # An entry is acked after its result is saved.
            (group,) = await client.xinfo_groups(QUEUE)
            return bool(group["lag"] == 0 and group["pending"] == 0)

        await until(drained, running)
        timings = watch.drained()
        finish.set()
        await running
    await client.aclose()
    await broker.shutdown()
    return timings


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
    main(Contestant("taskiq", "taskiq-redis", f"{RESULTS}:*", returned, drain))
