"""Measures the HTTP gateway on one core, with a worker beside it, and its cost.

Run it as ``python -m benchmarks.http``. The gateway and the worker are the real commands, Redis is a real server, and
the provider is the simulator. Each repeat starts all of them anew. Times are of the clock, and say little on a machine
that does other work; CPU seconds are the gateway's own. `make bench-http` also fills the figures into docs/http.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.figures import Figure, merged, shown
from benchmarks.http.archive import archive
from benchmarks.http.events import events
from benchmarks.http.jobs import ended, idle, posts, steady, waiting
from benchmarks.http.options import Options
from benchmarks.http.previews import previews
from benchmarks.http.stage import Stage, open_stage
from benchmarks.processes import environment
from benchmarks.report import load_before, quiet, write
from benchmarks.venvs import BENCHMARKS

PACKAGES = (
    "fastapi",
    "starlette",
    "uvicorn",
    "h11",
    "uvloop",
    "redis",
    "hiredis",
    "orjson",
    "pydantic",
    "obstore",
)


@dataclass(frozen=True)
class Scenario:
    """One thing to measure."""

    title: str
    run: Callable[[Stage, Options], Coroutine[Any, Any, list[Figure]]]


# In this order: memory that was freed hides what listeners take, and a backlog of jobs delays what follows it.
SCENARIOS = {
    "idle": Scenario("memory of an idle gateway", idle),
    "events": Scenario("1,000 listeners of one batch, 10 events a second", events),
    "previews": Scenario("4 previews at once with a burst, 3 s each at the provider", previews),
    "archive": Scenario("archive of 1,000 pictures of 1.5 MB", archive),
    "ended": Scenario("GET /v1/jobs/{id} of an ended job, 32 connections", ended),
    "steady": Scenario("POST /v1/jobs at 100 a second", steady),
    "waiting": Scenario("GET /v1/jobs/{id} of jobs that wait, 32 connections", waiting),
    "posts": Scenario("POST /v1/jobs, 32 connections", posts),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit code is 1 if a bound is missed."""
    options = _parse(arguments)
    about = _environment(options)
    runs = [run for _ in range(options.repeats) for run in one_repeat(options.only, options.sizes)]
    rows = summarise(runs)
    print(report(rows, about))
    write(options.json, about, summary=rows, runs=runs)
    return 0 if all(row["reached"] for row in rows) else 1


def one_repeat(names: Sequence[str], sizes: Options) -> list[dict[str, Any]]:
    """Every scenario of `names` once, on one stage."""
    runs = []
    with (
        tempfile.TemporaryDirectory(prefix="pixmill-http-") as directory,
        open_stage(Path(directory), sizes.pace) as stage,
    ):
        for name in names:
            load, began = os.getloadavg(), time.perf_counter()
            figures = uvloop.run(SCENARIOS[name].run(stage, sizes))
            took_s = time.perf_counter() - began
            runs.append(
                {
                    "scenario": name,
                    "pinned": stage.pinned,
                    "load_average": load,
                    "took_s": round(took_s, 2),
                    "figures": [asdict(figure) | {"reached": figure.reached} for figure in figures],
                }
            )
            print(f"{name}: {', '.join(map(shown, merged([runs[-1]])))}; {took_s:.1f} s", file=sys.stderr)
    return runs


def summarise(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians and spreads; a bound is reached if every run reached it."""
    rows = []
    for name in dict.fromkeys(run["scenario"] for run in runs):
        group = [run for run in runs if run["scenario"] == name]
        reached = all(figure["reached"] for run in group for figure in run["figures"])
        title = SCENARIOS[name].title
        rows.append({"scenario": name, "title": title, "figures": merged(group), "reached": reached})
    return rows


def report(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """The figures as plain text: a block a scenario, in each figure its bound."""
    lines: list[str] = []
    for row in rows:
        lines.append(f"{row['title']}: {'reached' if row['reached'] else 'MISSED'}")
        lines += [f"  {shown(figure)}" for figure in row["figures"]]
    lines += ["", f"load {load_before(about):.1f} before the start"]
    if not quiet(about):
        lines[-1] += ": the machine was busy, so times and rates are worth little; CPU time and memory hold"
    if about["cpus"] < 2:
        lines.append("one core for all processes, since there is no second one")
    lines.append(", ".join(f"{name} {number}" for name, number in about["versions"].items()))
    return "\n".join(lines)


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    about = environment()
    versions = {name: about[name] for name in ("python", "server")} | {
        name: version(name) for name in PACKAGES
    }
    return {**about, "repeats": options.repeats, "sizes": asdict(options.sizes), "versions": versions}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="SCENARIO",
                        help=f"of {', '.join(SCENARIOS)}")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "http.json", help="where to")
    sizes = Options()
    for name, value in asdict(sizes).items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=type(value), default=value)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats begins at 1.")
    options.only = [name for name in SCENARIOS if name in options.only]
    options.sizes = Options(**{name: getattr(options, name) for name in asdict(sizes)})
    return options


if __name__ == "__main__":
    sys.exit(main())
