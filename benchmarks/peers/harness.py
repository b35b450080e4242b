"""Shared by the contestants' scripts: arguments, event loop, check of the results, the printed line.

A script runs as ``python FILE REDIS_URL ITEMS CONCURRENCY`` in the environment of its library. The server is
empty at the start. Item ``k`` of ``ITEMS`` is a no-op that returns ``k``, so the results can be checked.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import redis
import redis.asyncio
import redis.utils
import uvloop

RESULT_TTL_S = 3600
# A poll shares the worker's event loop: fifty small round trips a second cost it little, and a run of some
# seconds is still timed to within 1 %.
POLL_S = 0.02


@dataclass(frozen=True)
class Run:
    """One drain: this many items, from this server, so many of them at once."""

    url: str
    items: int
    concurrency: int


@dataclass(frozen=True)
class Timings:
    """Seconds to enqueue all items, and from the first read to the last stored result, with the CPU of the latter."""

    enqueue_s: float
    drain_s: float
    worker_cpu_s: float
    server_cpu_s: float


class Watch:
    """Times a contest from now on: first what is enqueued, then what is drained."""

    def __init__(self, run: Run) -> None:
        self._server = redis.Redis.from_url(run.url)
        self._began = time.perf_counter()

    def enqueued(self) -> None:
        """The drain begins now."""
        self._enqueued = time.perf_counter()
        self._worker_cpu_s, self._server_cpu_s = time.process_time(), self._of_server()

    def drained(self) -> Timings:
        """The last result is stored."""
        worker_cpu_s, drained = time.process_time(), time.perf_counter()
        return Timings(
            self._enqueued - self._began,
            drained - self._enqueued,
            worker_cpu_s - self._worker_cpu_s,
            self._of_server() - self._server_cpu_s,
        )

    def _of_server(self) -> float:
        used: Any = self._server.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


@dataclass(frozen=True)
class Contestant:
    """A library under test, how it drains, and where it leaves its results."""

    name: str
    distribution: str
    result_keys: str
    returned: Callable[[bytes], object]
    drain: Callable[[Run], Awaitable[Timings]]


def main(contestant: Contestant) -> None:
    """Run the contest, check that every item has its result, and print one line of JSON."""
    if not redis.utils.HIREDIS_AVAILABLE:
        sys.exit(f"{contestant.name}: hiredis is not installed here, the comparison would not be fair.")
    run = Run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        timings = runner.run(_contest(contestant, run))
    line = {
        "name": contestant.name,
        "version": importlib.metadata.version(contestant.distribution),
        **{name: round(seconds, 4) for name, seconds in asdict(timings).items()},
        "items": run.items,
        "redis_py": redis.__version__,
    }
    print(json.dumps(line))


async def enqueue_all(run: Run, enqueue: Callable[[int], Awaitable[object]]) -> None:
    """Enqueue every item, ``concurrency`` calls at a time."""
    for first in range(0, run.items, run.concurrency):
        last = min(first + run.concurrency, run.items)
        await asyncio.gather(*(enqueue(number) for number in range(first, last)))


async def until(drained: Callable[[], Awaitable[bool]], worker: asyncio.Task[None]) -> None:
    """Return once ``drained`` says so; a worker that stops before is an error."""
    while not await drained():
        if worker.done():
            raise RuntimeError("the worker stopped before its queue was drained") from worker.exception()
        await asyncio.sleep(POLL_S)


async def _contest(contestant: Contestant, run: Run) -> Timings:
    timings = await contestant.drain(run)
    client = redis.asyncio.Redis.from_url(run.url)
    returned = await _returned_values(client, contestant)
    await client.aclose()
    right = set(returned) & set(range(run.items))
    if not len(right) == len(returned) == run.items:
        raise RuntimeError(
            f"{contestant.name}: of {run.items} items {len(right)} have their result; "
            f"the server holds {len(returned)} results in all"
        )
    return timings


async def _returned_values(client: redis.asyncio.Redis, contestant: Contestant) -> list[object]:
    keys = {key async for key in client.scan_iter(match=contestant.result_keys, count=1000)}
    ordered = list(keys)
    values: list[Any] = []
    for first in range(0, len(ordered), 1000):
        values += await client.mget(ordered[first : first + 1000])
    return [contestant.returned(value) for value in values]
