"""Shared by the contestants' scripts: arguments, event loop, the two contests, the printed line.

A script runs in the environment of its library, on a server that is empty at the start:

* ``python FILE REDIS_URL drain ITEMS CONCURRENCY``: all items are enqueued, then drained. Item ``k`` of ``ITEMS`` is a
  no-op that returns ``k``, so the results can be checked.
* ``python FILE REDIS_URL latency ITEMS CONCURRENCY``: a worker is idle, and items come one at a time. The line has the
  milliseconds from each call of the enqueueing function to the start of its no-op, in the same process.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
import redis.utils
import uvloop

RESULT_TTL_S = 3600
# A poll shares the worker's event loop: fifty small round trips a second cost it little, and a run of some
# seconds is still timed to within 1 %.
POLL_S = 0.02
IDLE_S, WARM_UP = 0.05, 20  # before each item; items that are not measured
LOST_S = 10.0


@dataclass(frozen=True)
class Run:
    """One contest: this many items, on this server, so many of them at once."""

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


async def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Library:
    """A library that is connected. `working` runs its worker, as a task, until its end.

    `accept` ends when all that was enqueued is ready for the worker.
    """

    enqueue: Callable[[int], Awaitable[object]]
    working: Callable[[], AbstractAsyncContextManager[asyncio.Task[Any]]]
    drained: Callable[[], Awaitable[bool]]
    accept: Callable[[], Awaitable[None]] = _nothing


@dataclass(frozen=True)
class Contestant:
    """A library under test, and where it leaves its results: `stored` has those of the items."""

    name: str
    distribution: str
    stored: Callable[[redis.asyncio.Redis], Awaitable[list[object]]]
    opened: Callable[[Run], AbstractAsyncContextManager[Library]]


def in_keys(
    pattern: str, returned: Callable[[bytes], object]
) -> Callable[[redis.asyncio.Redis], Awaitable[list[object]]]:
    """Results that are values of keys of their own."""

    async def stored(client: redis.asyncio.Redis) -> list[object]:
        keys = [*{key async for key in client.scan_iter(match=pattern, count=1000)}]
        values: list[Any] = []
        for first in range(0, len(keys), 1000):
            values += await client.mget(keys[first : first + 1000])
        return [returned(value) for value in values]

    return stored


async def noop(number: int) -> int:
    """The function that each contestant runs."""
    if number in _waiting:
        _waiting[number].set_result(time.perf_counter())
    return number


_waiting: dict[int, asyncio.Future[float]] = {}


def peak_rss_mib() -> float | None:
    """The most memory that this process had, or None where the system has no /proc."""
    # `getrusage` would begin with the parent's peak.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main(contestant: Contestant) -> None:
    """Run the contest and print one line of JSON."""
    if not redis.utils.HIREDIS_AVAILABLE:
        sys.exit(f"{contestant.name}: hiredis is not installed here, the comparison would not be fair.")
    url, contest, items, concurrency = sys.argv[1:]
    run = Run(url, int(items), int(concurrency))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(CONTESTS[contest](contestant, run))
    line = {
        "name": contestant.name,
        "version": importlib.metadata.version(contestant.distribution),
        "items": run.items,
        "redis_py": redis.__version__,
        "peak_rss_mib": peak_rss_mib(),
        **figures,
    }
    print(json.dumps(line))


async def drain(contestant: Contestant, run: Run) -> dict[str, float]:
    """Enqueue all, then drain; checks that every item has its result."""
    async with contestant.opened(run) as library:
        watch = Watch(run)
        await _enqueue_all(run, library.enqueue)
        await library.accept()
        watch.enqueued()
        async with library.working() as worker:
            await _until(library.drained, worker)
            timings = watch.drained()
    await _check(contestant, run)
    return {name: round(seconds, 4) for name, seconds in asdict(timings).items()}


async def latency(contestant: Contestant, run: Run) -> dict[str, list[float]]:
    """One item after the other on an idle worker; the first ones warm everything up."""
    taken_ms = []
    async with contestant.opened(run) as library, library.working():
        for number in range(WARM_UP + run.items):
            await asyncio.sleep(IDLE_S)
            started = _waiting[number] = asyncio.get_running_loop().create_future()
            began = time.perf_counter()
            await library.enqueue(number)
            taken_ms.append(1000 * (await asyncio.wait_for(started, LOST_S) - began))
            del _waiting[number]
    return {"latency_ms": [round(ms, 3) for ms in taken_ms[WARM_UP:]]}


CONTESTS: dict[str, Callable[[Contestant, Run], Awaitable[dict[str, Any]]]] = {
    "drain": drain,
    "latency": latency,
}


@asynccontextmanager
async def running(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """A worker that is ended by cancelling it."""
    worker = asyncio.create_task(work)
    try:
        yield worker
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def _enqueue_all(run: Run, enqueue: Callable[[int], Awaitable[object]]) -> None:
    """Enqueue every item, ``concurrency`` calls at a time."""
    for first in range(0, run.items, run.concurrency):
        last = min(first + run.concurrency, run.items)
        await asyncio.gather(*(enqueue(number) for number in range(first, last)))


async def _until(drained: Callable[[], Awaitable[bool]], worker: asyncio.Task[Any]) -> None:
    """Return once ``drained`` says so; a worker that stops before is an error."""
    while True:
        look = asyncio.ensure_future(drained())
        await asyncio.wait({look, worker}, return_when=asyncio.FIRST_COMPLETED)
        if look.done() and look.result():
            return
        if worker.done():
            raise RuntimeError("the worker stopped before its queue was drained") from worker.exception()
        await asyncio.sleep(POLL_S)


async def _check(contestant: Contestant, run: Run) -> None:
    client = redis.asyncio.Redis.from_url(run.url)
    returned = await contestant.stored(client)
    await client.aclose()
    right = set(returned) & set(range(run.items))
    if not len(right) == len(returned) == run.items:
        raise RuntimeError(
            f"{contestant.name}: of {run.items} items {len(right)} have their result; "
            f"the server holds {len(returned)} results in all"
        )
