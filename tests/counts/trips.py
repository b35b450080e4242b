"""The ways that are counted: of one paced item through an idle replica, and of a drain of no-ops.

All parts that an item passes are real, and the others (heartbeat, scheduler, janitor, gauges) do not run. Ids are
fixed, nobody looks again while nothing rings, and no call counts as late, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import io
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from PIL import Image
from redis.asyncio import Redis

from daemon.accounts.routes import Route, Routes
from daemon.callbacks.signing import Webhooks
from daemon.queue.bell import Bell
from daemon.queue.outcomes import Outcome, Succeeded
from daemon.replica import Replica
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from daemon.worker.run import Run
from limiter import Quota, parse_quota
from providers.base import Generated, Picture, Request
from tests.counts.watched_lua import Script
from tests.counts.wire import READ, Tally, Wire
from tests.daemon.harness import ScriptedProvider

# Commands of the measurement, of a connection, or of passing time; a script is counted by what it runs.
NOT_COUNTED: Final = (
    "config|",
    "evalsha",
    "hello",
    "client|",
    "select",
    "ping",
    "subscribe",
    "xautoclaim",
)
JOBS: Final = "pixmill:jobs"
WARM_UP: Final = 2  # items before the one that is counted
SILENT_S: Final = 0.02
SILENT_LOOKS: Final = 3
LONGEST_S: Final = 60.0
PATIENT_S: Final = 3600.0
BLOCK_MS: Final = 15_000  # below the client's timeout


@dataclass(frozen=True, slots=True)
class Trip:
    """The counts of a trip. `commands` are those that the server ran, in scripts or alone; scripts themselves are not.

    `scripts` are empty where the server ran them.
    """

    tally: Tally
    commands: Counter[str]
    scripts: Sequence[Script] = ()
    before_call: Counter[str] = field(default_factory=Counter)


class OneCall(ScriptedProvider):
    """A provider that replies at once, on an open connection; `on_send` is called before the first byte leaves."""

    def __init__(self, on_send: Callable[[], None]) -> None:
        super().__init__(self._picture)
        self._on_send = on_send
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        self._data = file.getvalue()

    async def _picture(self, request: Request) -> Generated:
        assert self.hooks.before_send is not None
        assert self.hooks.after_send is not None
        await self.hooks.before_send(None)
        self._on_send()
        self.hooks.after_send()
        return Generated((Picture(self._data),))


async def paced_item(wire: Wire, redis: Redis) -> Trip:
    """Count one item under a quota. `before_call` of the trip are the requests that left before the first byte.

    `redis` is an empty server, and `wire` leads to it.
    """
    before_call: Counter[str] = Counter()

    def on_send() -> None:
        before_call.clear()
        before_call.update(wire.tally.requests)
        del before_call[READ]  # it waits for the next entry

    quota = parse_quota("account", {"images": "600/min", "in_flight": 8})
    async with _replica(wire, OneCall(on_send), (quota,), slots=8) as replica, _running(replica):
        for number in range(WARM_UP):
            await _send(redis, [number])
            await _at_rest(wire, replica, number + 1)
        await _begin(wire, redis)
        await _send(redis, [WARM_UP])
        await _at_rest(wire, replica, WARM_UP + 1)
        return replace(await _end(wire, redis, 1), before_call=before_call)


async def drain(wire: Wire, redis: Redis, items: int) -> Trip:
    """Count the drain of so many no-ops without a quota, from the jobs stream on. `items` is a multiple of 64.

    There is a worker slot for each, and an ended run rings no bell, so neither the sizes of the rounds nor the number
    of looks depends on who is faster.
    """
    async with _replica(wire, OneCall(lambda: None), (), slots=items + WARM_UP) as replica:
        replica.pool.execute = _noop
        replica._bell.ring_all = lambda: None  # type: ignore[method-assign]  # of this replica
        async with _running(replica):
            await _send(redis, range(WARM_UP))
            await _at_rest(wire, replica, WARM_UP)
        await _begin(wire, redis)
        await _send(redis, range(WARM_UP, WARM_UP + items))
        accepted = partial(_at_rest, wire, replica, WARM_UP)
        async with _running(replica, accepted=accepted):
            await _at_rest(wire, replica, WARM_UP + items)
            return await _end(wire, redis, items)


async def _noop(run: Run) -> Outcome:
    return Succeeded({"images": []})


@asynccontextmanager
async def _replica(
    wire: Wire, provider: ScriptedProvider, quotas: Sequence[Quota], *, slots: int
) -> AsyncIterator[Replica]:
    """A replica that is not started; its record is in Redis, and its store is open."""
    for quota in quotas:
        object.__setattr__(quota, "tolerance_s", math.inf)
    settings = Settings.model_validate(
        {"metrics": {"listen": "127.0.0.1:0"}, "worker": {"max_in_flight": slots}}
    )
    routes = Routes([Route("default", provider, "model-1", tuple(quotas))])
    with patch("daemon.replica.worker_name", lambda: "worker-1"):
        store = ResultStore.open("memory://")
        replica = Replica(settings, wire.url, routes, store, Webhooks({}, ()), calm=False)
    await replica.probe.write()
    replica._gate.why = None
    try:
        yield replica
    finally:
        await replica.stop()


@asynccontextmanager
async def _running(
    replica: Replica, *, accepted: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[None]:
    """Run what an item passes. The first claim comes after `accepted`."""
    wait = Bell.wait

    async def wait_for_bell(bell: Bell, route: str, _timeout_s: float) -> None:
        await wait(bell, route, PATIENT_S)

    with patch.object(Bell, "wait", wait_for_bell), patch("daemon.intake.reader.BLOCK_MS", BLOCK_MS):
        tasks = [asyncio.create_task(replica._bell.run()), asyncio.create_task(replica.intake.run())]
        try:
            if accepted is not None:
                await accepted()
            tasks += [asyncio.create_task(each.run()) for each in replica.dispatchers.values()]
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _begin(wire: Wire, redis: Redis) -> None:
    """Count from now on."""
    await redis.config_resetstat()
    wire.tally = Tally()
    if wire.scripts is not None:
        wire.scripts.take()


async def _end(wire: Wire, redis: Redis, sent: int) -> Trip:
    """The counts since `_begin`, without the XADDs of the producer."""
    stats: Any = await redis.info("commandstats")
    found = {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}
    commands = Counter(
        {name.upper(): calls for name, calls in found.items() if not name.startswith(NOT_COUNTED)}
    )
    commands["XADD"] -= sent
    tally, wire.tally = wire.tally, Tally()
    return Trip(tally, commands, () if wire.scripts is None else wire.scripts.take())


async def _send(redis: Redis, numbers: Sequence[int] | range) -> None:
    """Send a job for each number, as a producer does."""
    pipe = redis.pipeline(transaction=False)
    for number in numbers:
        pipe.xadd(JOBS, {"data": f'{{"id":"item-{number:04}","prompt":"a cup"}}'})
    await pipe.execute()


async def _at_rest(wire: Wire, replica: Replica, ended: int) -> None:
    """Wait until so many items have ended, and nothing but the intake's next read is on the wire for a while."""
    silent, passed, deadline = 0, -1, time.monotonic() + LONGEST_S
    while silent < SILENT_LOOKS:
        if wire.failure is not None:
            raise wire.failure
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"after {LONGEST_S:.0f} s {wire.open} are on the wire, and {_ended(replica)} ended"
            )
        await asyncio.sleep(SILENT_S)
        rests = wire.open == [READ] and wire.passed == passed and not replica.pool.current()
        silent = silent + 1 if rests and _ended(replica) == ended else 0
        passed = wire.passed


def _ended(replica: Replica) -> int:
    labels = {"route": "default", "outcome": "succeeded"}
    return int(replica.metrics.registry.get_sample_value("pixmill_jobs_finished_total", labels) or 0)
