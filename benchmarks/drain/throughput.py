"""How fast one worker process drains a queue of no-ops: Pixmill, a bare loop on redis-py, and five peers.

Run it as ``python -m benchmarks.drain.throughput``. Each contestant is a fresh process that finds the server empty,
enqueues every item, then drains the queue and times that. Every round runs all of them in a new random
order, so that a slow minute of the machine hits no one in particular.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.drain.contestants import PEERS, SCRIPTS, contest, interpreters
from benchmarks.processes import environment
from benchmarks.report import Spread
from benchmarks.venvs import BENCHMARKS
from tests.servers import RedisServer


@dataclass(frozen=True)
class Row:
    """One contestant's medians over the repeats: items per second, CPU an item while it drains, and peak memory.

    The ratios compare items per second; they are missing without their other side, or where the machine was busy.
    """

    name: str
    version: str
    redis_py: str
    median: float
    slowest: float
    fastest: float
    worker_cpu_us: float
    server_cpu_us: float
    peak_rss_mib: float
    to_bare: float | None
    to_best_peer: float | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    pythons = interpreters(options.only)
    about = environment() | {
        name: getattr(options, name) for name in ("items", "repeats", "concurrency", "aof")
    }
    server = RedisServer(persistent=options.aof)
    try:
        runs = _run_all(server, pythons, options)
    finally:
        server.close()
    rows = summarise(runs, about)
    print(table(rows))
    print(f"\n{report.facts(about)}")
    report.write(options.json, about, summary=[asdict(row) for row in rows], runs=runs)


def summarise(runs: Sequence[dict[str, Any]], environment: Mapping[str, Any]) -> list[Row]:
    """One row a contestant, the fastest median first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["name"], []).append(run)
    rates = {
        name: Spread.of([run["items"] / run["drain_s"] for run in group]) for name, group in groups.items()
    }
    bare = rates["bare"].median if "bare" in rates else None
    best_peer = max((rates[name].median for name in PEERS if name in rates), default=None)

    def cpu_us(name: str, whose: str) -> float:
        return Spread.of([1e6 * run[whose] / run["items"] for run in groups[name]]).median

    return [
        Row(
            name=name,
            version=groups[name][0]["version"],
            redis_py=groups[name][0]["redis_py"],
            median=rate.median,
            slowest=rate.least,
            fastest=rate.most,
            worker_cpu_us=cpu_us(name, "worker_cpu_s"),
            server_cpu_us=cpu_us(name, "server_cpu_s"),
            peak_rss_mib=statistics.median(run["peak_rss_mib"] for run in groups[name]),
            to_bare=report.ratio(rate.median, bare, environment),
            to_best_peer=report.ratio(rate.median, best_peer, environment),
        )
        for name, rate in sorted(rates.items(), key=lambda item: -item[1].median)
    ]


def table(rows: Sequence[Row]) -> str:
    """The figures as plain text."""
    head = ("contestant", "version", "redis-py", "items/s", "min - max", "worker us", "server us", "MiB")
    return report.table(
        (*head, "x bare loop", "x best peer"),
        [
            (
                row.name,
                row.version,
                row.redis_py,
                f"{row.median:,.0f}",
                f"{row.slowest:,.0f} - {row.fastest:,.0f}",
                f"{row.worker_cpu_us:,.0f}",
                f"{row.server_cpu_us:,.0f}",
                f"{row.peak_rss_mib:.0f}",
                report.shown_ratio(row.to_bare),
                report.shown_ratio(row.to_best_peer),
            )
            for row in rows
        ],
        words=3,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain.throughput", description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="these contestants")
    parser.add_argument("--aof", action="store_true", help="the server appends every write to its file")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "throughput.json", help="where to")
    options = parser.parse_args(arguments)
    if min(options.items, options.repeats, options.concurrency) < 1:
        parser.error("--items, --repeats and --concurrency begin at 1.")
    return options


def _run_all(
    server: RedisServer, pythons: Mapping[str, Path], options: argparse.Namespace
) -> list[dict[str, Any]]:
    runs = []
    for number, name in report.rounds(list(pythons), options.repeats):
        run = contest(name, pythons[name], server.url, "drain", options.items, options.concurrency)
        if run is None:
            continue
        print(f"round {number}: {name} {run['items'] / run['drain_s']:,.0f} items/s", file=sys.stderr)
        runs.append(run)
    return runs


if __name__ == "__main__":
    main()
