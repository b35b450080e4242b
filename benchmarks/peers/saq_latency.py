"""saq: the time from `enqueue` to its function, one job for each line on stdin.

``python FILE REDIS_URL`` starts its worker as a second process and prints a line a job: ns of the monotonic clock,
which all processes of this machine share. ``python FILE REDIS_URL worker`` is that process.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import orjson
import uvloop
from saq import Queue, Worker
from saq.types import Context

RESULT_TTL_S = 60
POLL_S = 0.005


async def note(ctx: Context) -> int:  # noqa: ARG001 (saq passes its context)
    return time.monotonic_ns()


def queue_at(url: str) -> Queue:
    return Queue.from_url(url, dump=orjson.dumps, load=orjson.loads)


async def work(url: str) -> None:
    await Worker(queue_at(url), functions=[note], concurrency=8).start()


async def measure(url: str) -> None:
    queue = queue_at(url)
    await queue.connect()
    # A starting worker sweeps, and may take a job that was just read for lost (see saq_drain.py). This sweep holds the
    # next one off for 60 s.
    await queue.sweep()
    worker = await asyncio.create_subprocess_exec(
        sys.executable, __file__, url, "worker", stderr=subprocess.DEVNULL
    )
    try:
        await queue.apply("note", ttl=RESULT_TTL_S, timeout=30)  # the worker is up then
        print("ready", flush=True)
        lines = asyncio.get_running_loop()
        while await lines.run_in_executor(None, sys.stdin.readline):
            print(await sample(queue), flush=True)
    finally:
        worker.terminate()
        await worker.wait()
    await queue.disconnect()


async def sample(queue: Queue) -> int:
    """The ns from `enqueue` to the function."""
    began_ns = time.monotonic_ns()
    job = await queue.enqueue("note", ttl=RESULT_TTL_S)
    assert job is not None
    while not job.completed:  # the message of its end may come before a subscription
        await asyncio.sleep(POLL_S)
        await job.refresh()
    return int(job.result) - began_ns


def main() -> None:
    url, roles = sys.argv[1], sys.argv[2:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(url) if roles else measure(url))


if __name__ == "__main__":
    main()
