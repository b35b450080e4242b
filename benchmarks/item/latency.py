"""How long a job needs from its XADD to the provider's first byte, on an idle queue with one quota; and saq beside it.

Run it as ``python -m benchmarks.item.latency``. A real worker and a trivial provider (`first_byte.py`) are processes of
their own. saq has a server of its own; its figure is the time from `enqueue` to its function, which is one step less.
Both take turns, sample by sample, after random gaps. All clocks are this machine's monotonic one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from benchmarks import report
from benchmarks.figures import percentile
from benchmarks.item.lua import SCRIPT_NAMES
from benchmarks.processes import CONFIG, ROOT, Worker, environment
from benchmarks.venvs import BENCHMARKS, python_for
from tests.servers import RedisServer

ACCOUNT = """
[credentials.local]
provider = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "LATENCY_KEY"
[quotas.local]
images = "6000/min"
in_flight = 8
[routes.default]
credential = "local"
model = "any"
quotas = ["local"]
"""
GAP_S = (0.05, 0.25)
WITHIN_S = 30.0
LAST = "watched"  # the end of a watched sample
WATCHED = 20  # samples whose commands are counted, apart from the measured ones
# Commands of a replica that no job waits for: its next read, and what it does on a clock of its own.
BESIDE = {"XREADGROUP", "XAUTOCLAIM", "HGETALL", "TIME", "MULTI", "EXEC", "GET", "INFO", "PING", "SUBSCRIBE"}
BESIDE |= {"renew", "progress", "due", "install", "reclaim", "close_groups", "outbox_take", "spread", "sync"}


@dataclass(frozen=True)
class Row:
    """The latencies of one contestant, in ms; `to_saq` is the ratio of the medians."""

    name: str
    version: str
    samples: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    to_saq: float | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    facts = {**environment(), "samples": options.samples}
    measured_ns, commands = _measure(options)
    rows = summarise(measured_ns, facts)
    steps = statistics.median(map(len, commands)) if commands else None
    facts["commands_before_first_byte"] = steps
    facts["commands_example"] = commands[-1] if commands else []
    print(table(rows))
    print(f"\ncommands in series before the first byte: {steps} ({', '.join(facts['commands_example'])})")
    print(report.facts({name: value for name, value in facts.items() if not name.startswith("commands")}))
    runs = [{"name": name, "ns": values} for name, values in measured_ns.items()]
    report.write(options.json, facts, summary=[asdict(row) for row in rows], runs=runs)


def summarise(measured_ns: dict[str, list[int]], facts: Mapping[str, Any]) -> list[Row]:
    """One row a contestant. Without saq, or on a busy machine, there is no ratio."""
    medians = {name: statistics.median(values) for name, values in measured_ns.items() if values}
    return [
        Row(
            name=name,
            version=version(name) if name == "pixmill" else _pinned(name),
            samples=len(measured_ns[name]),
            p50_ms=median / 1e6,
            p90_ms=percentile(measured_ns[name], 90) / 1e6,
            p99_ms=percentile(measured_ns[name], 99) / 1e6,
            to_saq=report.ratio(median, medians.get("saq"), facts),
        )
        for name, median in medians.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """The figures as plain text."""
    lines = [
        f"{'contestant':<12}{'version':<10}{'samples':>8}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'x saq':>8}"
    ]
    for row in rows:
        ratio = report.shown_ratio(row.to_saq)
        times = "".join(f"{value:>9.2f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms))
        lines.append(f"{row.name:<12}{row.version:<10}{row.samples:>8}{times}{ratio:>8}")
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.item.latency", description=__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--without-saq", action="store_true", help="measure Pixmill alone")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "latency.json", help="where to")
    options = parser.parse_args(arguments)
    if options.samples < 1:
        parser.error("--samples begins at 1.")
    return options


def _measure(options: argparse.Namespace) -> tuple[dict[str, list[int]], list[list[str]]]:
    """The latencies of each contestant in ns, and the commands of the watched samples."""
    with (
        tempfile.TemporaryDirectory(prefix="pixmill-latency-") as directory,
        _pixmill(Path(directory)) as own,
    ):
        if options.without_saq:
            measured = {"pixmill": [own.sample() for _ in range(options.samples)]}
            return measured, own.commands(WATCHED)
        with _saq() as saq:
            pairs = [(own.sample(), saq.sample()) for _ in range(options.samples)]
        return {"pixmill": [a for a, _ in pairs], "saq": [b for _, b in pairs]}, own.commands(WATCHED)


class Pixmill:
    """A worker that waits for work, and the provider that it calls."""

    def __init__(self, server: RedisServer, worker: Worker, provider: subprocess.Popen[str]) -> None:
        self._client: Any = redis.Redis.from_url(server.url)
        self._worker = worker
        self._provider = provider
        self._sent = 0

    def sample(self) -> int:
        """The latency of one job in ns, after a random gap."""
        time.sleep(random.uniform(*GAP_S))
        began_ns = self._send()
        return self._arrival_ns() - began_ns

    def is_idle(self) -> bool:
        """Whether every job so far has ended."""
        self._worker.check()
        return not any(int(count) for count in self._client.hvals("pixmill:depth"))

    def commands(self, count: int) -> list[list[str]]:
        """For each of `count` jobs the commands that came between its XADD and the provider's first byte."""
        return [self._commands() for _ in range(count)]

    def _send(self) -> int:
        while not self.is_idle():
            time.sleep(0.005)
        self._sent += 1
        data = json.dumps({"id": f"job-{self._sent}", "prompt": f"a kettle, number {self._sent}"})
        began_ns = time.monotonic_ns()
        self._client.xadd("pixmill:jobs", {"data": data})
        return began_ns

    def _arrival_ns(self) -> int:
        assert self._provider.stdout is not None
        return int(self._provider.stdout.readline())

    def _commands(self) -> list[str]:
        time.sleep(random.uniform(*GAP_S))
        seen: list[dict[str, Any]] = []
        with self._client.monitor() as monitor:

            def read() -> None:
                for command in monitor.listen():
                    if command["command"] == f"ECHO {LAST}":
                        return
                    seen.append(command)

            reading = threading.Thread(target=read, daemon=True)
            reading.start()
            self._send()
            arrived_at = time.time() - (time.monotonic_ns() - self._arrival_ns()) / 1e9
            self._client.echo(LAST)
            reading.join(WITHIN_S)
        at = next(each["time"] for each in seen if each["command"].startswith("XADD pixmill:jobs"))
        series = [each for each in seen if at < each["time"] < arrived_at and each["client_type"] != "lua"]
        names = [_name(each["command"]) for each in series]
        return [name for name in names if name not in BESIDE]


def _name(command: str) -> str:
    word, _, rest = command.partition(" ")
    return SCRIPT_NAMES.get(rest.partition(" ")[0], word) if word == "EVALSHA" else word


@contextmanager
def _pixmill(directory: Path) -> Iterator[Pixmill]:
    server = RedisServer()
    provider = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.item.first_byte"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert provider.stdout is not None
    config = CONFIG.format(redis_url=server.url, directory=directory)
    config += ACCOUNT.format(port=int(provider.stdout.readline()))
    worker = Worker(directory, config, {"LATENCY_KEY": "none"})
    try:
        own = Pixmill(server, worker, provider)
        own.sample()  # the worker is up then
        yield own
    finally:
        worker.end()
        provider.terminate()
        provider.wait()
        server.close()


class Saq:
    """The peer's script, which sends one job for each line that it reads."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def sample(self) -> int:
        time.sleep(random.uniform(*GAP_S))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def _saq() -> Iterator[Saq]:
    server = RedisServer()
    command = [str(python_for("saq")), str(BENCHMARKS / "peers" / "saq_latency.py"), server.url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            sys.exit(f"saq did not start (exit {process.wait()}).")
        yield Saq(process)
    finally:
        process.stdin and process.stdin.close()
        process.wait()
        server.close()


def _pinned(peer: str) -> str:
    """The version of a peer that its requirements name."""
    lines = (BENCHMARKS / "peers" / f"requirements-{peer}.txt").read_text().splitlines()
    return next((line.partition("==")[2] for line in lines if line.startswith(f"{peer}==")), "?")


if __name__ == "__main__":
    main()
