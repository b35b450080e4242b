"""The cost of an item to its worker: CPU from claim to settle, and memory while its call waits for the provider.

Run it as ``python -m benchmarks.flight``, on Linux. A real worker, a real server, a local store, and the simulator as
a process of its own, so every call is real HTTP. The figures are those of the worker's process alone. Intake is not
in them: the route is paused until every job is accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis
from redis.asyncio import Redis

from benchmarks.processes import CONFIG, Provider, Worker, environment, server_version
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from daemon.queue.pauses import pause, resume
from pixmill.records.keys import Keys
from tests.servers import RedisServer

LOOK_S = 0.05
LONGEST_S = 300.0  # of one step of a run
QUIET_S = 0.5  # after a step, so that its last work is not counted with the next one
WARM_UP = 50  # items: modules, connections and buffers that each worker needs once
HANGS_S = 600  # longer than a run takes
ACCOUNT = """
[worker]
max_in_flight = {in_flight}
drain_timeout = "1s"
[credentials.main]
provider = "openai"
base_url = "{base_url}"
api_key_env = "BENCH_API_KEY"
[quotas.main]
in_flight = {in_flight}
[routes.default]
credential = "main"
model = "sim-1"
quotas = ["main"]
provider_timeout = "1h"
"""
CPU, CPU_THUMBNAIL, MEMORY = "CPU of an item", "CPU of an item, with thumbnail", "memory of an item in flight"
GOALS = {CPU: 5.0, CPU_THUMBNAIL: None, MEMORY: 16.0}
UNITS = {CPU: "ms", CPU_THUMBNAIL: "ms", MEMORY: "KiB"}


@dataclass(frozen=True)
class Row:
    """One figure over the repeats; `goal` is the most that it should be."""

    name: str
    unit: str
    median: float
    least: float
    most: float
    goal: float | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    _raise_descriptors()
    facts = _environment(options)
    runs: list[dict[str, Any]] = []
    for repeat in range(1, options.repeats + 1):
        for name in GOALS:
            value = _of_memory(options) if name == MEMORY else _of_cpu(options, thumbnail=name != CPU)
            print(f"round {repeat}: {name} {value:.2f} {UNITS[name]}", file=sys.stderr)
            runs.append({"name": name, "value": value})
    rows = summarise(runs)
    print(table(rows))
    write(options.json, facts, summary=[asdict(row) for row in rows], runs=runs)


def summarise(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """One row for each figure."""
    values = {name: [run["value"] for run in runs if run["name"] == name] for name in GOALS}
    return [
        Row(name, UNITS[name], statistics.median(found), min(found), max(found), GOALS[name])
        for name, found in values.items()
        if found
    ]


def table(rows: Sequence[Row]) -> str:
    """The figures as plain text."""
    lines = [f"{'of the worker':<32}{'median':>14}{'min - max':>16}{'goal':>8}"]
    for row in rows:
        goal = "" if row.goal is None else f"<= {row.goal:g}"
        spread = f"{row.least:.2f} - {row.most:.2f}"
        lines.append(f"{row.name:<32}{row.median:>10.2f} {row.unit:<3}{spread:>16}{goal:>8}".rstrip())
    return "\n".join(lines)


class Stage:
    """A server, a simulator and a worker, which has made its first pictures; `end` stops them all."""

    def __init__(self, in_flight: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pixmill-flight-")
        self._server = RedisServer()
        self._provider = Provider("--plain", "--latency", "0-0", "--timed-prompts")
        self._client: Any = redis.Redis.from_url(self._server.url, decode_responses=True)
        self._keys = Keys("pixmill")
        directory = Path(self._folder.name)
        config = CONFIG.format(redis_url=self._server.url, directory=directory) + ACCOUNT.format(
            in_flight=in_flight, base_url=self._provider.openai_url
        )
        self.worker = Worker(directory, config, {"BENCH_API_KEY": "bench"}, module="benchmarks.flight.worker")
        self._submitted = 0
        self.drain(WARM_UP, thumbnail=True)

    def drain(self, items: int, *, thumbnail: bool) -> float:
        """Make pictures that the provider has at once; returns the CPU seconds that the worker used after intake."""
        asyncio.run(self._paused())
        time.sleep(
            QUIET_S
        )  # until the worker knows of the pause; on a busy machine a few items may start before
        self._submit(items, "a kettle", thumbnail=thumbnail)
        self._until(lambda: not self._client.xlen(self._keys.jobs))
        time.sleep(QUIET_S)
        before = self._cpu_s()
        asyncio.run(self._resumed())
        self._until(lambda: not any(map(int, self._client.hvals(self._keys.depth))))
        used = self._cpu_s() - before
        records = [self._keys.item(f"default//{name}") for name in self._names(items)]
        states = {self._client.hget(record, "state") for record in records}
        if states != {"succeeded"}:
            sys.exit(
                f"the items ended as {', '.join(sorted(map(str, states)))}:\n{self.worker.log()[-3000:]}"
            )
        return used

    def hang(self, items: int) -> float:
        """Let calls wait for the provider; returns by how many bytes the worker's memory grew."""
        before = self._resident_bytes()
        self._submit(items, f"a kettle that takes {HANGS_S} s", thumbnail=True)
        self._until(lambda: self._provider.ledger()["in_flight"] == items, LOOK_S * 10)
        return self._resident_bytes() - before

    def end(self) -> None:
        self._provider.end()
        self.worker.end()
        self._server.close()
        self._folder.cleanup()

    def _submit(self, items: int, prompt: str, *, thumbnail: bool) -> None:
        self._submitted += items
        pipe = self._client.pipeline(transaction=False)
        for name in self._names(items):
            job = {"id": name, "prompt": prompt, "size": "64x64", "output": {"thumbnail": thumbnail}}
            pipe.xadd(self._keys.jobs, {"data": json.dumps(job)})
        pipe.execute()

    def _names(self, items: int) -> list[str]:
        """Those of the latest items."""
        return [f"job-{number}" for number in range(self._submitted - items, self._submitted)]

    def _cpu_s(self) -> float:
        used = self.worker.cpu_s()
        if used is None:
            sys.exit("This system does not count the CPU of a process in /proc.")
        return used

    def _resident_bytes(self) -> int:
        """After a collection of its garbage."""
        os.kill(self.worker.pid, signal.SIGUSR1)
        time.sleep(QUIET_S)
        pages = int(Path(f"/proc/{self.worker.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def _until(self, holds: Callable[[], bool], look_s: float = LOOK_S) -> None:
        ends_at = time.monotonic() + LONGEST_S
        while not holds():
            self.worker.check()
            if time.monotonic() > ends_at:
                sys.exit(f"a step took more than {LONGEST_S:.0f} s:\n{self.worker.log()[-3000:]}")
            time.sleep(look_s)

    async def _paused(self) -> None:
        async with Redis.from_url(self._server.url) as client:
            await pause(client, self._keys, "route", "default")

    async def _resumed(self) -> None:
        async with Redis.from_url(self._server.url) as client:
            await resume(client, self._keys, "route", "default")


def _of_cpu(options: argparse.Namespace, *, thumbnail: bool) -> float:
    """Milliseconds an item."""
    stage = Stage(options.in_flight)
    try:
        return 1000 * stage.drain(options.items, thumbnail=thumbnail) / int(options.items)
    finally:
        stage.end()


def _of_memory(options: argparse.Namespace) -> float:
    """KiB an item."""
    stage = Stage(options.hanging)
    try:
        return stage.hang(options.hanging) / 1024 / int(options.hanging)
    finally:
        stage.end()


def _raise_descriptors() -> None:
    """For the simulator, which has a connection for each call and inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    libraries = {name: version(name) for name in ("httpx2", "redis", "uvloop", "obstore", "pillow")}
    given = {name: getattr(options, name) for name in ("items", "in_flight", "hanging", "repeats")}
    return {**environment(), "server": server_version(), **libraries, **given}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flight", description=__doc__)
    parser.add_argument("--items", type=int, default=500, help="of which the CPU is taken")
    parser.add_argument("--in-flight", type=int, default=8, help="of these items, at a time")
    parser.add_argument(
        "--hanging", type=int, default=1000, help="items in flight of which the memory is taken"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "flight.json", help="where to")
    options = parser.parse_args(arguments)
    if min(options.items, options.in_flight, options.hanging, options.repeats) < 1:
        parser.error("--items, --in-flight, --hanging and --repeats begin at 1.")
    return options


if __name__ == "__main__":
    main()
