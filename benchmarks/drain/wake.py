"""How long an idle worker takes to start an item that was just enqueued: Pixmill beside a bare loop and five peers.

Run it as ``python -m benchmarks.drain.wake``. The time is from the call that enqueues, which for Pixmill is one XADD,
to the start of the function, a no-op, in the same process. No route has a quota here: `benchmarks.item.latency` has
one, and a provider. Each contestant is a fresh process in each round.
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
from benchmarks.figures import percentile
from benchmarks.processes import environment
from benchmarks.venvs import BENCHMARKS
from tests.servers import RedisServer


@dataclass(frozen=True)
class Row:
    """One contestant over all rounds, in milliseconds; the ratio is that of the medians."""

    name: str
    version: str
    samples: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    to_fastest_peer: float | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    pythons = interpreters(options.only)
    about = environment() | {name: getattr(options, name) for name in SIZES}
    server, runs = RedisServer(), []
    try:
        for number, name in report.rounds(list(pythons), options.repeats):
            run = contest(name, pythons[name], server.url, "latency", options.items, options.concurrency)
            if run is None:
                continue
            print(f"round {number}: {name} {statistics.median(run['latency_ms']):.2f} ms", file=sys.stderr)
            runs.append(run)
    finally:
        server.close()
    rows = summarise(runs, about)
    print(table(rows))
    print(f"\n{report.facts(about)}")
    report.write(options.json, about, summary=[asdict(row) for row in rows], runs=runs)


def summarise(runs: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> list[Row]:
    """One row a contestant, the fastest first."""
    samples: dict[str, list[float]] = {}
    for run in runs:
        samples.setdefault(run["name"], []).extend(run["latency_ms"])
    versions = {run["name"]: run["version"] for run in runs}
    medians = {name: statistics.median(found) for name, found in samples.items()}
    fastest = min((medians[name] for name in PEERS if name in medians), default=None)
    return [
        Row(
            name=name,
            version=versions[name],
            samples=len(samples[name]),
            p50_ms=median,
            p90_ms=percentile(samples[name], 90),
            p99_ms=percentile(samples[name], 99),
            to_fastest_peer=report.ratio(median, fastest, about),
        )
        for name, median in sorted(medians.items(), key=lambda item: item[1])
    ]


def table(rows: Sequence[Row]) -> str:
    """The figures as plain text."""
    return report.table(
        ("contestant", "version", "samples", "p50 ms", "p90 ms", "p99 ms", "x fastest peer"),
        [
            (
                row.name,
                row.version,
                str(row.samples),
                *(f"{ms:.2f}" for ms in (row.p50_ms, row.p90_ms, row.p99_ms)),
                report.shown_ratio(row.to_fastest_peer),
            )
            for row in rows
        ],
        words=2,
    )


SIZES = {"items": 100, "repeats": 3, "concurrency": 8}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain.wake", description=__doc__)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="these contestants")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "wake.json", help="where to")
    options = parser.parse_args(arguments)
    if min(getattr(options, name) for name in SIZES) < 1:
        parser.error("--items, --repeats and --concurrency begin at 1.")
    return options


if __name__ == "__main__":
    main()
