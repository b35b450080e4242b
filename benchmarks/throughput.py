"""How fast one worker process drains a queue of no-ops: Pixmill, a bare loop on redis-py, and three peers.

Run it as ``python -m benchmarks.throughput``. Each contestant is a fresh process that finds the server empty,
enqueues every item, then drains the queue and times that. Every round runs all of them in a new random
order, so that a slow minute of the machine hits no one in particular.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.venvs import BENCHMARKS, python_for
from tests.servers import RedisServer

PEERS = ("arq", "saq", "taskiq")
SCRIPTS = {
    "pixmill": BENCHMARKS / "throughput_pixmill.py",
    "bare": BENCHMARKS / "peers" / "bare_drain.py",
    **{peer: BENCHMARKS / "peers" / f"{peer}_drain.py" for peer in PEERS},
}
RUN_TIMEOUT_S = 600


@dataclass(frozen=True)
class Row:
    """One contestant's figures: items per second over the repeats, and ratios of the medians."""

    name: str
    version: str
    redis_py: str
    median: float
    slowest: float
    fastest: float
    to_bare: float | None
    to_best_peer: float | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    contestants = [name for name in options.only if SCRIPTS[name].exists()]
    for name in sorted(set(options.only) - set(contestants)):
        print(f"skipped: {name} ({SCRIPTS[name].relative_to(BENCHMARKS.parent)} does not exist)")
    if not contestants:
        sys.exit("No contestant is left to run.")
    pythons = {name: python_for(name) if name in PEERS else Path(sys.executable) for name in contestants}
    server = RedisServer(persistent=options.aof)
    try:
        environment = _environment(server, options)
        runs = _run_all(server, pythons, options)
    finally:
        server.close()
    environment["load_average_after"] = os.getloadavg()
    rows = summarise(runs)
    print(table(rows, environment))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"environment": environment, "summary": [asdict(row) for row in rows], "runs": runs}
    options.json.write_text(json.dumps(document, indent=2) + "\n")


def summarise(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """One row a contestant, the fastest median first. A ratio without its other side is None."""
    rates: dict[str, list[float]] = {}
    for run in runs:
        rates.setdefault(run["name"], []).append(run["items"] / run["drain_s"])
    medians = {name: statistics.median(values) for name, values in rates.items()}
    bare = medians.get("bare")
    best_peer = max((medians[name] for name in PEERS if name in medians), default=None)
    any_run = {run["name"]: run for run in runs}
    return [
        Row(
            name=name,
            version=any_run[name]["version"],
            redis_py=any_run[name]["redis_py"],
            median=median,
            slowest=min(rates[name]),
            fastest=max(rates[name]),
            to_bare=median / bare if bare else None,
            to_best_peer=median / best_peer if best_peer else None,
        )
        for name, median in sorted(medians.items(), key=lambda item: -item[1])
    ]


def table(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    """The figures and the machine, as plain text."""
    head = ("contestant", "version", "redis-py", "items/s", "min - max", "x bare loop", "x best peer")
    lines = [head] + [
        (
            row.name,
            row.version,
            row.redis_py,
            f"{row.median:,.0f}",
            f"{row.slowest:,.0f} - {row.fastest:,.0f}",
            _ratio(row.to_bare),
            _ratio(row.to_best_peer),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    facts = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in environment.items())
    return "\n".join([*text, "", facts])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
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
    server: RedisServer, pythons: dict[str, Path], options: argparse.Namespace
) -> list[dict[str, Any]]:
    runs = []
    for repeat in range(1, options.repeats + 1):
        for name in random.sample(list(pythons), len(pythons)):
            run = _run(server, name, pythons[name], options)
            rate = run["items"] / run["drain_s"]
            print(f"round {repeat}: {name} {rate:,.0f} items/s", file=sys.stderr)
            runs.append(run)
    return runs


def _run(server: RedisServer, name: str, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One drain in a process of its own; a script that fails ends the benchmark with its output."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    # -P: a script's folder is not searched, where `limiter.py` would hide the package of that name. The peers' scripts
    # need theirs.
    safe = ["-P"] if name == "pixmill" else []
    command = [
        str(python),
        *safe,
        str(SCRIPTS[name]),
        server.url,
        str(options.items),
        str(options.concurrency),
    ]
    # Only scripts in the project's own environment may import the project.
    paths = {} if name in PEERS else {"PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(
        command,
        env=os.environ | paths,
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} failed (exit {done.returncode}):\n{done.stderr}")
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if line["items"] != options.items:
        sys.exit(f"{name} drained {line['items']} items instead of {options.items}.")
    return line | {"name": name}


def _environment(server: RedisServer, options: argparse.Namespace) -> dict[str, Any]:
    with redis.Redis.from_url(server.url) as client:
        info: dict[str, Any] = client.info("server")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "items": options.items,
        "repeats": options.repeats,
        "concurrency": options.concurrency,
        "aof": options.aof,
        "server": f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average_before": os.getloadavg(),
    }


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "/".join(f"{number:.1f}" for number in value)
    return str(value)


if __name__ == "__main__":
    main()
