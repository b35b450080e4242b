"""Measures the cost of draining an item when much is queued: many items, many tenants, many batches.

Run it as ``python -m benchmarks.drain.backlog``. Each backlog has a server of its own, which keeps it over all
rounds. In a round, in a random order, one worker drains the first 10,000 items of each; then the small backlog is
filled again. Cost is CPU time of server and worker together, as a multiple of that of the small backlog.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import redis

from benchmarks import report
from benchmarks.drain.noops import Work
from benchmarks.drain.worker import depth, drain, fill
from benchmarks.processes import environment
from benchmarks.report import Spread
from benchmarks.venvs import BENCHMARKS
from tests.servers import RedisServer

BASE = "few"


@dataclass(frozen=True)
class Backlog:
    """A queue that is full, on its own server."""

    name: str
    title: str
    work: Work
    server: RedisServer
    bytes_an_item: float

    @classmethod
    def filled(cls, name: str, title: str, work: Work) -> Backlog:
        server = RedisServer()
        before = _used_bytes(server)
        fill(server.url, work)
        return cls(name, title, work, server, (_used_bytes(server) - before) / work.items)

    def top_up(self, number: int) -> None:
        """Fill it again when a round has emptied it."""
        with redis.Redis.from_url(self.server.url) as client:
            empty = depth(client) == 0
        if empty:
            fill(self.server.url, replace(self.work, name=f"round{number}"))


@dataclass(frozen=True)
class Row:
    """Medians over the rounds: microseconds an item. The ratios are missing where the machine was busy."""

    name: str
    title: str
    wall_us: float
    server_cpu_us: float
    worker_cpu_us: float
    least_cpu_us: float
    most_cpu_us: float
    bytes_an_item: float
    peak_rss_mib: float
    wall_to_few: float | None
    cpu_to_few: float | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    about = environment() | {name: getattr(options, name) for name in SIZES}
    backlogs: list[Backlog] = []
    try:
        for name, (title, work) in works(options).items():
            print(f"filling: {title}", file=sys.stderr)
            backlogs.append(Backlog.filled(name, title, work))
        runs = _run_all({backlog.name: backlog for backlog in backlogs}, options)
    finally:
        for backlog in backlogs:
            backlog.server.close()
    rows = summarise(runs, {backlog.name: backlog for backlog in backlogs}, about)
    print(table(rows))
    print(f"\n{report.facts(about)}")
    report.write(options.json, about, summary=[asdict(row) for row in rows], runs=runs)


def works(options: argparse.Namespace) -> dict[str, tuple[str, Work]]:
    """The backlogs by name; the small one has as many items as are drained in a round."""
    drained, queued, tenants, batches = options.drained, options.queued, options.tenants, options.batches
    each = options.drained * options.repeats // tenants + 1
    return {
        BASE: (f"{drained:,} items, 1 tenant", Work(drained)),
        "queued": (f"{queued:,} items, 1 tenant", Work(queued)),
        "tenants": (f"{tenants:,} tenants, {each} items each", Work(tenants * each, tenants=tenants)),
        "batches": (
            f"{batches:,} batches of {options.batch_size:,}",
            Work(batches * options.batch_size, batches=batches),
        ),
    }


def summarise(
    runs: Sequence[Mapping[str, Any]], backlogs: Mapping[str, Backlog], about: Mapping[str, Any]
) -> list[Row]:
    """One row a backlog, in the order of `backlogs`."""

    def us(name: str, *parts: str) -> Spread:
        group = [run for run in runs if run["name"] == name]
        return Spread.of([1e6 * sum(run[part] for part in parts) / run["items"] for run in group])

    def cpu_us(name: str) -> Spread:
        return us(name, "server_cpu_s", "worker_cpu_s")

    return [
        Row(
            name=name,
            title=backlog.title,
            wall_us=us(name, "drain_s").median,
            server_cpu_us=us(name, "server_cpu_s").median,
            worker_cpu_us=us(name, "worker_cpu_s").median,
            least_cpu_us=cpu_us(name).least,
            most_cpu_us=cpu_us(name).most,
            bytes_an_item=backlog.bytes_an_item,
            peak_rss_mib=max(run["peak_rss_mib"] for run in runs if run["name"] == name),
            wall_to_few=report.ratio(us(name, "drain_s").median, us(BASE, "drain_s").median, about),
            cpu_to_few=report.ratio(cpu_us(name).median, cpu_us(BASE).median, about),
        )
        for name, backlog in backlogs.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """The figures as plain text."""
    return report.table(
        ("backlog", "wall us", "server us", "worker us", "CPU min - max", "bytes", "MiB", "x wall", "x CPU"),
        [
            (
                row.title,
                f"{row.wall_us:,.0f}",
                f"{row.server_cpu_us:,.0f}",
                f"{row.worker_cpu_us:,.0f}",
                f"{row.least_cpu_us:,.0f} - {row.most_cpu_us:,.0f}",
                f"{row.bytes_an_item:,.0f}",
                f"{row.peak_rss_mib:.0f}",
                report.shown_ratio(row.wall_to_few),
                report.shown_ratio(row.cpu_to_few),
            )
            for row in rows
        ],
    )


def _run_all(backlogs: Mapping[str, Backlog], options: argparse.Namespace) -> list[dict[str, Any]]:
    runs = []
    for number, name in report.rounds([*backlogs], options.repeats):
        backlogs[name].top_up(number)
        run = drain(backlogs[name].server.url, 1, options.concurrency, options.drained)
        print(
            f"round {number}: {name} {1e6 * run['drain_s'] / run['items']:,.0f} us an item", file=sys.stderr
        )
        runs.append({"name": name, "round": number, **run})
    return runs


def _used_bytes(server: RedisServer) -> int:
    client: Any
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("memory")["used_memory"])


SIZES = {
    "drained": 10_000,
    "queued": 1_000_000,
    "tenants": 10_000,
    "batches": 1_000,
    "batch_size": 1_000,
    "repeats": 5,
    "concurrency": 100,
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain.backlog", description=__doc__)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "backlog.json", help="where to")
    options = parser.parse_args(arguments)
    if min(getattr(options, name) for name in SIZES) < 1:
        parser.error("All sizes begin at 1.")
    if min(options.queued, options.batches * options.batch_size) < options.drained * options.repeats:
        parser.error("Each large backlog must have the items of all rounds: --drained times --repeats.")
    return options


if __name__ == "__main__":
    main()
