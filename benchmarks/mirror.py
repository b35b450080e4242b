"""Measures `pixmill mirror` under load: how late rows are, and whether kills, outages and trimmed events leave gaps.

Run it as ``python -m benchmarks.mirror``. Valkey, PostgreSQL and the mirror are real. Items are accepted, claimed and
settled at a steady rate through the real scripts, without replicas: three events each. Every 20 ms the newest event is
noted; it is late by the time from its place in the stream, by the clock of Redis, until another connection sees it
written. After each phase all tables equal all records.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis

from benchmarks.figures import Figure, merged, percentile, shown
from benchmarks.processes import environment
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from daemon.gateway.events.frames import Position
from daemon.gateway.events.replay import has_lost, state_of
from daemon.queue.outcomes import Succeeded
from daemon.settings import SecretUrl
from daemon.telemetry.logs import configure_logs
from pixmill.broker.connect import command_client
from tests.daemon.mirror.rig import Followed
from tests.daemon.mirror.server import PostgresServer
from tests.e2e.processes import Command
from tests.servers import RedisServer

LATE_S = 1.0
ROUND_S = 0.1
LOOK_S = 0.02
CATCHES_UP_S = 600.0
DONE = Succeeded({"images": []})


@dataclass
class Stage:
    """Everything that runs. `sent` is the count of items so far."""

    followed: Followed
    redis: Redis
    postgres: PostgresServer
    environ: dict[str, str]
    directory: Path
    mirror: Command
    batches: itertools.count[int]
    sent: int = 0

    async def restart(self) -> None:
        """Start the mirror, as after a kill."""
        self.mirror = Command(["mirror"], self.directory, **self.environ)
        await asyncio.to_thread(self.mirror.wait_for, "mirror started")


async def work(stage: Stage, rate: float, seconds: float) -> float:
    """Let so many items a second come and end; returns the rate that was reached."""
    size, rounds, began = round(rate * ROUND_S), round(seconds / ROUND_S), time.perf_counter()

    async def send() -> None:
        for number in range(rounds):
            await asyncio.sleep(max(0.0, began + number * ROUND_S - time.perf_counter()))
            await stage.followed.installation.batch(f"b{next(stage.batches)}", size)

    await asyncio.gather(send(), serve(stage, size * rounds))
    stage.sent += size * rounds
    return size * rounds / max(time.perf_counter() - began, rounds * ROUND_S)


async def serve(stage: Stage, count: int) -> None:
    """Claim and settle so many items."""
    installation = stage.followed.installation
    while count > 0:
        if claimed := await installation.claim(64):
            await asyncio.gather(*(installation.queue.settle(item, DONE) for item in claimed))
            count -= len(claimed)
        else:
            await asyncio.sleep(LOOK_S)


async def position(stage: Stage) -> Position:
    return await stage.followed.reader.run(lambda tables: tables.position(stage.followed.keys.events))


async def caught_up(stage: Stage) -> list[Figure]:
    """Wait until the mirror has all events, and compare."""
    began = time.perf_counter()
    async with asyncio.timeout(CATCHES_UP_S):
        while not await stage.followed.is_done():
            await asyncio.sleep(LOOK_S)
    took_s = time.perf_counter() - began
    recorded, written = await stage.followed.recorded(), await stage.followed.written()
    wrong = sum(len(of_records) != len(rows) for of_records, rows in zip(recorded, written, strict=True))
    wrong += sum(
        one != other
        for of_records, rows in zip(recorded, written, strict=True)
        for one, other in zip(of_records, rows, strict=False)
    )
    return [
        Figure("s until it has all", took_s, digits=1),
        Figure("items on record", len(recorded[0]), at_least=stage.sent, at_most=stage.sent),
        Figure("rows that differ", wrong, at_most=0),
    ]


async def steady(stage: Stage, rate: float, seconds: float) -> list[Figure]:
    waiting: list[Position] = []
    found: list[float] = []
    working = asyncio.create_task(work(stage, rate, seconds))
    while waiting or not working.done():
        if not working.done():
            waiting.append((await state_of(stage.redis, stage.followed.keys.events)).last)
        written, now_s = await position(stage), time.time()
        found += [now_s - one[0] / 1000 for one in waiting if one <= written]
        waiting = [one for one in waiting if one > written]
        await asyncio.sleep(LOOK_S)
    reached = await working
    late = [
        Figure("items a second", reached, at_least=0.99 * rate),
        Figure("s late, median", percentile(found, 50), digits=3),
        Figure("s late, p99", percentile(found, 99), at_most=LATE_S, digits=3),
    ]
    return [*late, *await caught_up(stage)]


async def killed(stage: Stage, rate: float, seconds: float) -> list[Figure]:
    working = asyncio.create_task(work(stage, rate, seconds))
    for _ in range(3):
        await asyncio.sleep(seconds / 5)
        stage.mirror.kill()
        await stage.restart()
    return [Figure("items a second", await working, at_least=0.99 * rate), *await caught_up(stage)]


async def away(stage: Stage, rate: float, seconds: float) -> list[Figure]:
    await work(stage, rate, seconds / 10)
    before = await position(stage)
    await asyncio.to_thread(stage.postgres.stop)
    reached = await work(stage, rate, seconds)
    trimmed = has_lost(await state_of(stage.redis, stage.followed.keys.events), before)
    await asyncio.to_thread(stage.postgres.start)
    await work(stage, rate, seconds / 10)
    return [
        Figure("items a second", reached, at_least=0.99 * rate),
        Figure("events were trimmed", trimmed, at_least=1),
        *await caught_up(stage),
    ]


PHASES = {
    "steady": ("a mirror under load", steady),
    "killed": ("a mirror that is killed three times under load", killed),
    "away": ("PostgreSQL away under load, until events are trimmed", away),
}


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Stage]:
    """A Redis, a PostgreSQL and a mirror."""
    server, postgres = RedisServer(), PostgresServer()
    redis = command_client(server.url)
    followed = Followed(redis, SecretUrl(postgres.url))
    environ = {"PIXMILL_REDIS__URL": server.url, "PIXMILL_MIRROR__POSTGRES": postgres.url}
    mirror = Command(["mirror"], directory, **environ)
    stage = Stage(followed, redis, postgres, environ, directory, mirror, itertools.count())
    try:
        await asyncio.to_thread(mirror.wait_for, "mirror started")
        yield stage
    finally:
        await asyncio.to_thread(stage.mirror.stop)
        await followed.reader.aclose()
        await redis.aclose()
        postgres.close()
        server.close()


async def measure(names: Sequence[str], rate: float, seconds: float) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pixmill-mirror-") as directory:
        async with opened(Path(directory)) as stage:
            for name in names:
                figures = await PHASES[name][1](stage, rate, seconds)
                run = {"phase": name, "figures": [asdict(one) | {"reached": one.reached} for one in figures]}
                runs.append(run)
                print(f"{PHASES[name][0]}:\n  " + "\n  ".join(map(shown, merged([run]))), flush=True)
    return runs


def main() -> int:
    """Run, print, write; the exit code is 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mirror", description=__doc__)
    parser.add_argument("--rate", type=float, default=2000.0, help="items a second (default 2,000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase (default 60)")
    parser.add_argument("--only", nargs="+", choices=list(PHASES), default=list(PHASES), metavar="PHASE")
    parser.add_argument(
        "--json", type=Path, default=BENCHMARKS / "out" / "mirror.json", help="the file of results"
    )
    options = parser.parse_args()
    configure_logs(level="error")
    about = environment() | {name: version(name) for name in ("redis", "asyncpg")}
    runs = uvloop.run(measure(options.only, options.rate, options.seconds))
    write(options.json, about, summary=runs)
    return int(not all(figure["reached"] for run in runs for figure in run["figures"]))


if __name__ == "__main__":
    sys.exit(main())
