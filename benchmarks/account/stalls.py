"""Workers that stand still at random moments: do their calls still keep to the account's limits?

Run it as ``python -m benchmarks.account.stalls``. Three replicas share a strict window and a token bucket, which the
simulator enforces by the kernel's arrival times. Meanwhile a random replica is stopped (SIGSTOP) for 50 to 300 ms,
again and again. A replica looks at the clock right before a call's first byte. One that stops after that look sends a
late call, which nobody can take back; its log then has "a call left late", by more than the guard. Such calls may
cost one 429 in twenty runs, other calls none.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import redis

from benchmarks.account.refusals import Refusal, refusals
from benchmarks.processes import CONFIG, Provider, Worker, environment
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from limiter.quota.quota import parse_quota
from tests.servers import RedisServer

REPLICAS = 3
LATENCY_S = 0.05
STOP_S, EVERY_S = (0.05, 0.3), (0.3, 0.6)
LOOK_S = 0.1
DRAIN_LONGEST_S = 120.0
NEAR_S = 1.0  # stops and late calls this close to a refused call are shown with it

ACCOUNT = """
[credentials.{name}]
provider = "openai"
base_url = "{base_url}"
api_key_env = "BENCH_API_KEY"
[quotas.{name}]
{quota}
[routes.{name}]
credential = "{name}"
model = "sim-1"
quotas = ["{name}"]
"""


@dataclass(frozen=True)
class Account:
    """An account: its limit for the simulator and for the replicas, and how many calls can fill it."""

    name: str
    options: Sequence[str]
    quota: str
    fills: int

    @property
    def guard_s(self) -> float:
        """The spare time between calls, which covers a small lateness."""
        return 2 * parse_quota(self.name, tomllib.loads(self.quota)).tolerance_s


ACCOUNTS = (
    Account("window", ("--images", "10/1s"), 'images = "10/1s"', 10),
    Account("bucket", ("--requests", "8/s burst 4"), 'requests = { rate = "8/s", burst = 4 }', 8),
)


@dataclass(frozen=True)
class Stop:
    """A replica that stood still, in monotonic seconds."""

    worker: int
    from_s: float
    to_s: float


@dataclass(frozen=True)
class Late:
    """A call that its replica found late after its last byte; `item` is its uid, `at_s` that moment."""

    worker: int
    item: str
    at_s: float
    late_s: float


@dataclass
class Run:
    """One batch on each account."""

    seconds: dict[str, float] = field(default_factory=dict)
    stops: int = 0
    late_calls: int = 0
    late_refusals: list[str] = field(default_factory=list)  # of late calls, or behind one
    other_refusals: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The figures of the run."""
        took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return (
            f"{took}; {self.stops} stops, {self.late_calls} calls left late; 429s: {len(self.late_refusals)} by late "
            f"calls, {len(self.other_refusals)} others"
        )


class Stopper(threading.Thread):
    """Stops a random worker again and again, until `end`; each worker then runs."""

    def __init__(self, workers: Sequence[Worker], dice: random.Random) -> None:
        super().__init__(daemon=True)
        self.stops: list[Stop] = []
        self._workers = workers
        self._dice = dice
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._dice.uniform(*EVERY_S)):
            number = self._dice.randrange(len(self._workers))
            from_s = time.monotonic()
            with self._workers[number].stopped():
                time.sleep(self._dice.uniform(*STOP_S))
            self.stops.append(Stop(number, from_s, time.monotonic()))

    def end(self) -> None:
        self._ended.set()
        self.join()


class Stage:
    """The processes of all runs: a server, a provider for each account, and the replicas."""

    def __init__(self, directory: Path) -> None:
        self.server = RedisServer()
        latency = ("--plain", "--latency", f"{LATENCY_S:g}")
        self.providers = {account.name: Provider(*latency, *account.options) for account in ACCOUNTS}
        config = CONFIG.format(redis_url=self.server.url, directory=directory) + "".join(
            ACCOUNT.format(
                name=account.name, base_url=self.providers[account.name].openai_url, quota=account.quota
            )
            for account in ACCOUNTS
        )
        self.workers = [
            Worker(directory, config, {"BENCH_API_KEY": "bench"}, "--log-level", "debug")
            for _ in range(REPLICAS)
        ]
        self.client: Any = redis.Redis.from_url(self.server.url, decode_responses=True)

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        for provider in self.providers.values():
            provider.end()
        self.server.close()

    def run(self, number: int, items: int, dice: random.Random) -> Run:
        """A batch of `items` on each account while replicas are stopped."""
        batches = {account.name: f"r{number}-{account.name}" for account in ACCOUNTS}
        began_s = time.monotonic()
        for name, batch in batches.items():
            self._submit(name, batch, items)
        stopper = Stopper(self.workers, dice)
        stopper.start()
        try:
            seconds = self._drained(batches)
        finally:
            stopper.end()
        run = Run(seconds, len(stopper.stops))
        for account in ACCOUNTS:
            late = self._late_calls(batches[account.name], account.guard_s)
            run.late_calls += len(late)
            entries = self.providers[account.name].ledger(entries=True)["entries"]
            for refusal in refusals(entries, account.fills):
                if refusal.at_s >= began_s:
                    _sort_in(run, refusal, began_s, late, stopper.stops)
        return run

    def _submit(self, route: str, batch: str, items: int) -> None:
        defaults = {"size": "512x512", "route": route, "output": {"thumbnail": False}}
        rows = [{"id": f"i{number}", "prompt": f"{batch}/i{number}"} for number in range(items)]
        payload = {"id": batch, "defaults": defaults, "items": rows}
        self.client.xadd("pixmill:jobs", {"type": "pixmill.batch.v1", "data": json.dumps(payload)})

    def _drained(self, batches: dict[str, str]) -> dict[str, float]:
        """Wait for the end of all batches; the seconds of each."""
        deadline = time.monotonic() + DRAIN_LONGEST_S
        seconds: dict[str, float] = {}
        while len(seconds) < len(batches):
            if time.monotonic() > deadline:
                sys.exit(f"After {DRAIN_LONGEST_S:g} s not every batch has ended.")
            time.sleep(LOOK_S)
            for worker in self.workers:
                worker.check()
            for name, batch in batches.items():
                group = self.client.hgetall(f"pixmill:batch:default/{batch}")
                if "finished_us" in group:
                    seconds[name] = (int(group["finished_us"]) - int(group["accepted_us"])) / 1e6
        return seconds

    def _late_calls(self, batch: str, guard_s: float) -> list[Late]:
        """The calls of the batch that left later than their guard covers."""
        calls = [
            call for number, worker in enumerate(self.workers) for call in late_calls(number, worker.log())
        ]
        return [call for call in calls if call.late_s > guard_s and f"/{batch}/" in call.item]


def late_calls(worker: int, log: str) -> list[Late]:
    """The calls that a replica's log calls late."""
    found = []
    for text in log.splitlines():
        if '"a call left late"' in text:
            line = json.loads(text)
            found.append(Late(worker, line["item"], _monotonic_s(line["timestamp"]), line["late_s"]))
    return found


def _monotonic_s(timestamp: str) -> float:
    """A moment of the wall clock on this process's clock."""
    return datetime.fromisoformat(timestamp).timestamp() - time.time() + time.monotonic()


def _sort_in(run: Run, refusal: Refusal, began_s: float, late: Sequence[Late], stops: Sequence[Stop]) -> None:
    """Note the refusal with the late calls and the stops around it."""
    near = [call for call in late if any(_is_of(call, other) for other in (refusal.call, *refusal.earlier))]
    text = "; ".join(
        [
            refusal.text(began_s),
            *(f"{call.item} left {call.late_s:.3f} s late, from worker {call.worker}" for call in near),
            *(
                f"worker {stop.worker} stood still from {stop.from_s - began_s:.3f} to {stop.to_s - began_s:.3f} s"
                for stop in stops
                if stop.from_s <= refusal.at_s + LATENCY_S and stop.to_s >= refusal.at_s - NEAR_S
            ),
        ]
    )
    (run.late_refusals if near else run.other_refusals).append(text)


def _is_of(late: Late, call: Any) -> bool:
    """Whether the ledger's call is that late one; its prompt is a part of the item's uid."""
    return late.item.endswith(call["prompt"]) and abs(late.at_s - call["at_s"]) < NEAR_S


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.account.stalls", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--items", type=int, default=150, help="of each account, a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "stalls.json", help="where to")
    options = parser.parse_args(arguments)
    before, dice, runs = environment(), random.Random(options.seed), []
    with tempfile.TemporaryDirectory(prefix="pixmill-stalls-") as directory:
        stage = Stage(Path(directory))
        try:
            for number in range(1, options.runs + 1):
                runs.append(stage.run(number, options.items, dice))
                print(f"run {number}: {runs[-1].line()}", flush=True)
                for text in (*runs[-1].late_refusals, *runs[-1].other_refusals):
                    print(f"  429: {text}", flush=True)
        finally:
            stage.end()
    kept = verdict(runs)
    write(options.json, before, runs=[asdict(run) for run in runs], kept=kept)
    return 0 if kept else 1


def verdict(runs: Sequence[Run]) -> bool:
    """Print and return whether late calls alone cost 429s, one in twenty runs at most."""
    late, others = sum(len(run.late_refusals) for run in runs), sum(len(run.other_refusals) for run in runs)
    most = max(1, len(runs) // 20)
    kept = not others and late <= most
    print(
        f"{len(runs)} runs: {late} x 429 by calls that left late (at most {most}), {others} others (none): "
        f"{'kept' if kept else 'MISSED'}"
    )
    return kept


if __name__ == "__main__":
    sys.exit(main())
