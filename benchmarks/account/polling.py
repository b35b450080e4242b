"""Thousands of running tasks on one replica: its CPU, its memory, and whether its polls keep to the account's limit.

Run it as ``python -m benchmarks.account.polling``. A real worker, a real server, and the simulator with ModelScope's
wire, which enforces a quota on polls and counts them by itself. The pace is the quota's: with more tasks than polls,
each task is polled less often, and no task is lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.processes import Provider, Worker, environment
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from providers.simulator.settings import Rate
from tests.servers import RedisServer

LOOK_S = 0.2
# The simulator adds up its books for each read of them, and takes no polls meanwhile.
ASK_SIMULATOR_S = 10.0
BATCH = 1000  # items a stream entry
CONFIG = """
[redis]
url = "{redis_url}"
[worker]
max_in_flight = {tasks}
[storage]
url = "file://{directory}/images"
[metrics]
listen = "127.0.0.1:0"
[credentials.main]
provider = "zimage"
base_url = "{base_url}"
api_key_env = "BENCH_API_KEY"
[quotas.main]
polls = "{polls}"
[routes.default]
credential = "main"
model = "Tongyi-MAI/Z-Image-Turbo"
quotas = ["main"]
provider_timeout = "1h"
"""


@dataclass(frozen=True)
class Figures:
    """One run. CPU and memory are the replica's alone; polls are as the simulator counted them."""

    tasks: int
    succeeded: int
    most_at_once: int
    took_s: float
    cpu_s: float
    peak_rss_mib: float
    polls: int
    polls_per_s: float  # while all tasks ran, or over the whole run if they never did together
    polling_cpu_share: float | None  # of one core, in that time; None where the system does not report it
    polls_quota: str
    most_polls_in_a_period: int
    polls_refused: int

    @property
    def kept(self) -> bool:
        """Whether the account's limit was never exceeded."""
        return self.polls_refused == 0 and self.most_polls_in_a_period <= Rate.parse(self.polls_quota).count


@dataclass(frozen=True)
class Moment:
    """The figures at one time."""

    at: float
    polls: int
    cpu_s: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    before = environment()
    server = RedisServer()
    try:
        with tempfile.TemporaryDirectory(prefix="pixmill-polling-") as directory:
            figures = _run(server, Path(directory), options)
    finally:
        server.close()
    print(table(figures))
    write(options.json, before, figures=asdict(figures), kept=figures.kept)
    return 0 if figures.kept and figures.succeeded == figures.tasks else 1


def table(figures: Figures) -> str:
    """The figures as plain text."""
    share = figures.polling_cpu_share
    rows = [
        ("tasks", f"{figures.tasks:,}, of which {figures.succeeded:,} succeeded"),
        ("at once", f"{figures.most_at_once:,}"),
        ("took", f"{figures.took_s:.1f} s"),
        (
            "CPU",
            f"{figures.cpu_s:.1f} s" + ("" if share is None else f"; {share:.0%} of a core while polling"),
        ),
        ("peak RSS", f"{figures.peak_rss_mib:.0f} MiB"),
        ("polls", f"{figures.polls:,}; {figures.polls_per_s:.1f} a second"),
        (
            "quota",
            f"{figures.polls_quota}; at most {figures.most_polls_in_a_period:,} in a period by the simulator's "
            f"count, {figures.polls_refused} refused: {'kept' if figures.kept else 'EXCEEDED'}",
        ),
    ]
    return "\n".join(f"{name:<10}{value}" for name, value in rows)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.account.polling", description=__doc__)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--latency", type=float, default=120.0, help="seconds that a task takes")
    parser.add_argument("--polls", default="1000/10s", help="the account's quota")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "polling.json", help="where to")
    options = parser.parse_args(arguments)
    if options.tasks < 1 or options.latency < 0:
        parser.error("--tasks begins at 1, --latency at 0.")
    try:
        Rate.parse(options.polls)
    except ValueError as error:
        parser.error(str(error))
    return options


def _run(server: RedisServer, directory: Path, options: argparse.Namespace) -> Figures:
    latency = f"{options.latency:g}-{options.latency:g}"
    kept = ("--kept-pictures", str(options.tasks))
    simulator = Provider("--plain", "--latency", latency, "--polls", options.polls, *kept)
    config = CONFIG.format(
        redis_url=server.url,
        directory=directory,
        base_url=simulator.url,
        tasks=options.tasks,
        polls=options.polls,
    )
    try:
        worker = Worker(directory, config, {"BENCH_API_KEY": "bench"})
        try:
            return _measured(server, worker, simulator, options)
        finally:
            worker.end()
    finally:
        simulator.end()


def _measured(
    server: RedisServer, worker: Worker, simulator: Provider, options: argparse.Namespace
) -> Figures:
    client: Any = redis.Redis.from_url(server.url, decode_responses=True)
    started = time.monotonic()
    _submit(client, options.tasks)
    most = 0
    full: Moment | None = None
    last_full: Moment | None = None
    while True:
        time.sleep(LOOK_S)
        worker.check()
        depth = client.hgetall("pixmill:depth")
        running = int(depth.get("default|normal|running", 0))
        most = max(most, running)
        asked_long_ago = last_full is None or time.monotonic() - last_full.at > ASK_SIMULATOR_S
        if running == options.tasks and asked_long_ago:
            last_full = Moment(time.monotonic(), simulator.ledger()["polls"], worker.cpu_s())
            full = full or last_full
        if all(client.hget(key, "state") not in (None, "running") for key in _groups(options.tasks)):
            break
    took_s = time.monotonic() - started
    ledger = simulator.ledger()
    cpu_s, peak_rss_mib = worker.end()
    if full is not None and last_full is not None and last_full.at > full.at:
        since_s, polls = last_full.at - full.at, last_full.polls - full.polls
        known = full.cpu_s is not None and last_full.cpu_s is not None
        share = (last_full.cpu_s - full.cpu_s) / since_s if known else None  # type: ignore[operator]  # both known
    else:
        since_s, polls, share = took_s, ledger["polls"], None
    return Figures(
        tasks=options.tasks,
        succeeded=sum(int(client.hget(key, "succeeded") or 0) for key in _groups(options.tasks)),
        most_at_once=most,
        took_s=took_s,
        cpu_s=cpu_s,
        peak_rss_mib=peak_rss_mib,
        polls=ledger["polls"],
        polls_per_s=polls / since_s,
        polling_cpu_share=share,
        polls_quota=options.polls,
        most_polls_in_a_period=ledger["max_polls_in_window"],
        polls_refused=ledger["polls_refused"],
    )


def _submit(client: Any, tasks: int) -> None:
    for first in range(0, tasks, BATCH):
        items = [{"id": f"i{number}"} for number in range(first, min(first + BATCH, tasks))]
        defaults = {"prompt": "a kettle", "size": "512x512", "output": {"thumbnail": False}}
        payload = {"id": f"b{first // BATCH}", "defaults": defaults, "items": items}
        client.xadd("pixmill:jobs", {"type": "pixmill.batch.v1", "data": json.dumps(payload)})


def _groups(tasks: int) -> list[str]:
    return [f"pixmill:batch:default/b{number}" for number in range(-(-tasks // BATCH))]


if __name__ == "__main__":
    sys.exit(main())
