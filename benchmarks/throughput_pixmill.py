"""Pixmill's part of the throughput benchmark: a whole replica, with a no-op in the place of the provider call.

Run as ``python FILE REDIS_URL ITEMS CONCURRENCY``. Everything but the call is real: validated intake, records, fair
ring, claims, fenced settles, events, counts, heartbeat, metrics. The drain is timed from the start of a replica whose
items are all accepted to the last stored result; intake is timed apart, as the peers' enqueueing is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from importlib.metadata import version

import redis
import uvloop
from redis.asyncio import Redis

from benchmarks.peers import harness
from daemon.accounts.routes import Route, Routes
from daemon.callbacks.signing import Webhooks
from daemon.contract import Job
from daemon.queue.keys import Keys
from daemon.queue.outcomes import Outcome, Succeeded
from daemon.replica import Replica
from daemon.service import freeze_imports
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from daemon.telemetry.logs import configure_logs
from daemon.worker.run import Run
from providers.openai.provider import create

POLL_S = 0.02


async def noop(run: Run) -> Outcome:
    """A no-op that returns its number, like the peers'."""
    job = Job.from_spec(run.item.spec)
    return Succeeded({"images": [], "value": int(job.prompt)})


async def drain(run: harness.Run) -> harness.Timings:
    settings = Settings.model_validate(
        {"worker": {"max_in_flight": run.concurrency}, "metrics": {"listen": "127.0.0.1:0"}}
    )
    provider = create(base_url="http://127.0.0.1:9/v1", secrets={"api_key": "none"}, options={})
    routes = Routes([Route("default", provider, "no-op")])
    client = Redis.from_url(run.url)
    keys = Keys(settings.redis.prefix)
    replica = Replica(settings, run.url, routes, ResultStore.open("memory://"), Webhooks({}, ()))
    replica.pool.execute = noop
    freeze_imports()  # as `pixmill worker` does
    await enqueue(client, keys, run.items)
    watch = harness.Watch(run)
    await accept(replica, client, keys, run.items)
    watch.enqueued()
    await replica.start()
    await until_drained(client, keys)
    timings = watch.drained()
    await replica.stop()
    await check(client, keys, run.items)
    await client.aclose()
    return timings


async def enqueue(client: Redis, keys: Keys, items: int) -> None:
    """Send the jobs as a producer does: one XADD a job."""
    for first in range(0, items, 1000):
        pipe = client.pipeline(transaction=False)
        for number in range(first, min(first + 1000, items)):
            pipe.xadd(keys.jobs, {"data": json.dumps({"id": f"job-{number}", "prompt": str(number)})})
        await pipe.execute()


async def accept(replica: Replica, client: Redis, keys: Keys, items: int) -> None:
    """Run the intake alone, until every entry has become an item."""
    await replica.intake.create_group()
    reading = asyncio.create_task(replica.intake.run())
    while await client.xlen(keys.jobs):
        await asyncio.sleep(POLL_S)
    await replica.intake.finish()
    await reading
    if await client.zcard(keys.waiting("default")) != items:
        raise RuntimeError("not every job was accepted")


async def until_drained(client: Redis, keys: Keys) -> None:
    """Wait until no item of the route waits or runs; polls like the peers' scripts."""
    while True:
        fields = await client.hgetall(keys.depth)
        if not any(int(count) for count in fields.values()):
            return
        await asyncio.sleep(POLL_S)


async def check(client: Redis, keys: Keys, items: int) -> None:
    """Check that every item has succeeded once, with its own value."""
    values: set[int] = set()
    for first in range(0, items, 1000):
        pipe = client.pipeline(transaction=False)
        for number in range(first, min(first + 1000, items)):
            pipe.hmget(keys.item(f"default//job-{number}"), "state", "result")
        for state, result in await pipe.execute():
            if state != b"succeeded":
                raise RuntimeError(f"an item is {state!r}")
            values.add(json.loads(result)["value"])
    if values != set(range(items)):
        raise RuntimeError(f"of {items} items {len(values)} have their own result")


def main() -> None:
    configure_logs(level="warning")
    url, items, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        timings = runner.run(drain(harness.Run(url, items, concurrency)))
    line = {
        "name": "pixmill",
        "version": version("pixmill"),
        "items": items,
        "redis_py": redis.__version__,
        **asdict(timings),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
