"""Measures the gain of more replicas: 1, 2, 4 and 8 of them drain one queue, without a limit and under a quota.

Run it as ``python -m benchmarks.drain.replicas``. All replicas of a run start together, and share this machine with the
server. Without a limit items are no-ops, so the server is the bound. Under a quota the replicas are the real command
and the provider is the simulator, which counts what arrives: the number of replicas must not matter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks import report
from benchmarks.account.refusals import TOO_MANY_REQUESTS
from benchmarks.drain.noops import Work
from benchmarks.drain.worker import drain, fill
from benchmarks.processes import CONFIG, Provider, Worker, environment, server_cpu_s
from benchmarks.report import Spread
from benchmarks.venvs import BENCHMARKS
from tests.servers import RedisServer

REPLICAS = (1, 2, 4, 8)
FREE, QUOTA = "no limit", "quota"
LOOK_S = 0.1
STARTS_S = 120.0
ACCOUNT = """
[credentials.main]
provider = "openai"
base_url = "{base_url}"
api_key_env = "BENCH_API_KEY"
[quotas.main]
images = "{images}/s"
[routes.default]
credential = "main"
model = "sim-1"
quotas = ["main"]
"""


@dataclass(frozen=True)
class Row:
    """Medians of one number of replicas. `to_one` compares items a second with one replica."""

    kind: str
    replicas: int
    items_a_second: float
    slowest: float
    fastest: float
    server_cpu_us: float
    worker_cpu_us: float
    over_optimum: float | None
    refused: int
    to_one: float | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    about = environment() | {name: getattr(options, name) for name in SIZES}
    runs = []
    contestants = [f"{kind}/{count}" for kind in (FREE, QUOTA) for count in options.replicas]
    for number, name in report.rounds(contestants, options.repeats):
        kind, _, count = name.partition("/")
        run = RUNS[kind](int(count), options)
        print(f"round {number}: {name} {run['items'] / run['drain_s']:,.1f} items/s", file=sys.stderr)
        runs.append({"kind": kind, "replicas": int(count), **run})
    rows = summarise(runs, about)
    print(table(rows))
    print(f"\n{report.facts(about)}")
    report.write(options.json, about, summary=[asdict(row) for row in rows], runs=runs)


def without_limit(replicas: int, options: argparse.Namespace) -> dict[str, float]:
    """All items are queued before the replicas start."""
    server = RedisServer()
    try:
        fill(server.url, Work(options.items))
        return drain(server.url, replicas, options.concurrency, options.items)
    finally:
        server.close()


def under_quota(replicas: int, options: argparse.Namespace) -> dict[str, float]:
    """All replicas run before the items are queued; the time is from the first arrival at the provider to the last."""
    with ExitStack() as stack:
        server = RedisServer()
        stack.callback(server.close)
        provider = Provider("--plain", "--latency", "0.2", "--images", f"{options.images}/s")
        stack.callback(provider.end)
        client: Any = stack.enter_context(redis.Redis.from_url(server.url))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pixmill-replicas-")))
        config = CONFIG.format(redis_url=server.url, directory=directory)
        config += ACCOUNT.format(base_url=provider.openai_url, images=options.images)
        workers = []
        for _ in range(replicas):
            workers.append(Worker(directory, config, {"BENCH_API_KEY": "bench"}))
            stack.callback(workers[-1].end)
        _wait_until(lambda: all("replica started" in worker.log() for worker in workers), workers, STARTS_S)
        server_s, workers_s = server_cpu_s(client), _cpu_s(workers)
        _submit(client, options.images * options.seconds)
        # A batch has ended when its last picture is stored.
        ended_s = 2 * options.seconds + STARTS_S
        _wait_until(lambda: client.hexists("pixmill:batch:default/bench", "finished_us"), workers, ended_s)
        server_s, workers_s = server_cpu_s(client) - server_s, _cpu_s(workers) - workers_s
        calls = provider.ledger(entries=True)["entries"]
    arrivals = sorted(call["at_s"] for call in calls if call["admitted"])
    return {
        "items": len(arrivals),
        "drain_s": arrivals[-1] - arrivals[0],
        "optimum_s": options.seconds - 1.0,  # the first second's pictures may all go at once
        "refused": sum(call["status"] == TOO_MANY_REQUESTS for call in calls),
        "server_cpu_s": server_s,
        "worker_cpu_s": workers_s,
    }


RUNS: Mapping[str, Callable[[int, argparse.Namespace], dict[str, float]]] = {
    FREE: without_limit,
    QUOTA: under_quota,
}


def summarise(runs: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> list[Row]:
    """One row for each kind and number of replicas, in this order."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["kind"], run["replicas"]), []).append(run)
    rates = {
        key: Spread.of([run["items"] / run["drain_s"] for run in group]) for key, group in groups.items()
    }

    def median(key: tuple[str, int], part: str, base: str) -> float:
        return Spread.of([run[part] / run[base] for run in groups[key]]).median

    return [
        Row(
            kind=kind,
            replicas=replicas,
            items_a_second=rate.median,
            slowest=rate.least,
            fastest=rate.most,
            server_cpu_us=1e6 * median((kind, replicas), "server_cpu_s", "items"),
            worker_cpu_us=1e6 * median((kind, replicas), "worker_cpu_s", "items"),
            over_optimum=median((kind, replicas), "drain_s", "optimum_s") if kind == QUOTA else None,
            refused=sum(run.get("refused", 0) for run in groups[kind, replicas]),
            to_one=report.ratio(rate.median, rates[kind, 1].median if (kind, 1) in rates else None, about),
        )
        for (kind, replicas), rate in sorted(rates.items())
    ]


def table(rows: Sequence[Row]) -> str:
    """The figures as plain text."""
    return report.table(
        (
            "kind",
            "replicas",
            "items/s",
            "min - max",
            "server us",
            "workers us",
            "x optimum",
            "429s",
            "x one replica",
        ),
        [
            (
                row.kind,
                str(row.replicas),
                f"{row.items_a_second:,.1f}",
                f"{row.slowest:,.1f} - {row.fastest:,.1f}",
                f"{row.server_cpu_us:,.0f}",
                f"{row.worker_cpu_us:,.0f}",
                report.shown_ratio(row.over_optimum),
                str(row.refused),
                report.shown_ratio(row.to_one),
            )
            for row in rows
        ],
    )


def _wait_until(holds: Callable[[], bool], workers: Sequence[Worker], within_s: float) -> None:
    """Look again and again; a wait that is too long ends the benchmark with the log of a replica."""
    until = time.monotonic() + within_s
    while not holds():
        for worker in workers:
            worker.check()
        if time.monotonic() > until:
            sys.exit(f"a replica stands still:\n{workers[0].log()[-3000:]}")
        time.sleep(LOOK_S)


def _cpu_s(workers: Sequence[Worker]) -> float:
    return sum(worker.cpu_s() or 0.0 for worker in workers)


def _submit(client: Any, items: int) -> None:
    defaults = {"prompt": "a kettle", "size": "64x64", "output": {"thumbnail": False}}
    payload = {
        "id": "bench",
        "defaults": defaults,
        "items": [{"id": f"i{number}"} for number in range(items)],
    }
    client.xadd("pixmill:jobs", {"type": "pixmill.batch.v1", "data": json.dumps(payload)})


SIZES = {"items": 20_000, "concurrency": 100, "images": 20, "seconds": 15, "repeats": 3}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain.replicas", description=__doc__)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--replicas", type=int, nargs="+", default=REPLICAS)
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "replicas.json", help="where to")
    options = parser.parse_args(arguments)
    if min(*(getattr(options, name) for name in SIZES), *options.replicas) < 1 or options.seconds < 2:
        parser.error("All sizes begin at 1, --seconds at 2.")
    if options.images * options.seconds > 1000:
        parser.error("--images times --seconds is one batch, of 1000 items at most.")
    return options


if __name__ == "__main__":
    main()
