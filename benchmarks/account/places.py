"""How well an account's places in flight are used: a task keeps its place until a poll has found its end.

Run it as ``python -m benchmarks.account.places``. Real workers, a real server, and the simulator with ModelScope's
wire as a process of its own. All rows run at once, each five times, and each run has an account of its own. A span is
a multiple of the optimum: the same durations in the same order of start, scheduled without a gap. The row of scarce
polls runs after them, once, and its gap is compared with that of taking turns: the same durations, places and limit.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import redis

from benchmarks.account.places_figures import (
    Look,
    gap_by_turns_s,
    handed_on_s,
    most_at_once,
    polls_used,
    span,
)
from benchmarks.processes import Provider, Worker, environment
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from providers.simulator.ledger import digest
from providers.simulator.settings import Rate
from tests.servers import RedisServer

LOOK_S = 0.5
FIRST = 10  # tasks of which nothing is known yet, with bounds of their own
FIRST_SPAN, FIRST_POLLS = 1.10, 40
WORKERS = 2
PART = 1000  # items of one entry

Draw = Callable[[random.Random], float]


@dataclass(frozen=True)
class Scenario:
    """Tasks, and the bounds of their spans and polls from task `since` on; or of the seconds of the whole batch."""

    name: str
    title: str
    durations_s: Callable[[random.Random], list[float]]
    span: float = 0.0
    polls: float = 0.0
    in_flight: int = 1
    since: int = FIRST
    seconds: float | None = None
    priority: str = "normal"
    limit: Rate | None = None  # of polls, which are scarce then


@dataclass(frozen=True)
class Run:
    """One account. Gaps and polls are as the simulator saw them."""

    scenario: str
    seconds: float
    span: float
    polls: float
    first_span: float
    first_polls: float
    mean_gap_s: float
    handed_on_ms: list[float]  # from the news of an end to the next call
    most_at_once: int
    refused: int
    polls_used: float | None = None  # as a part of the limit
    gap_by_turns_s: float | None = None


def _uniform(low_s: float, high_s: float) -> Draw:
    return lambda dice: dice.uniform(low_s, high_s)


def _lognormal(sigma: float) -> Draw:
    return lambda dice: 10 * dice.lognormvariate(0, sigma)


def _short_or_long(dice: random.Random) -> float:
    return dice.uniform(4.75, 5.25) if dice.random() < 0.7 else dice.uniform(23.75, 26.25)


def _tasks(*parts: tuple[int, Draw]) -> Callable[[random.Random], list[float]]:
    return lambda dice: [draw(dice) for count, draw in parts for _ in range(count)]


USED = 0.95  # of the limit, where polls are scarce
_FOUR, _TEN = _uniform(3.2, 4.8), _uniform(8, 12)
SCENARIOS = (
    Scenario("four", "1 at a time, 4 s +-20 %", _tasks((60, _FOUR)), 1.04, 8),
    Scenario("ten", "1 at a time, 10 s +-20 %", _tasks((40, _TEN)), 1.04, 8),
    Scenario("places", "4 at a time, 4 s +-20 %", _tasks((200, _FOUR)), 1.04, 8, in_flight=4),
    Scenario("spread", "lognormal, median 10 s, sigma 0.5", _tasks((40, _lognormal(0.5))), 1.06, 12),
    Scenario("wide", "lognormal, median 10 s, sigma 1.0", _tasks((40, _lognormal(1.0))), 1.08, 14),
    Scenario("mixed", "70 % of 5 s, 30 % of 25 s", _tasks((40, _short_or_long)), 1.04, 8),
    Scenario("faster", "10 s, then 4 s: from task 21 of those", _tasks((20, _TEN), (60, _FOUR)), 1.06, 14, since=40),
    Scenario("previews", "4 previews of 3 s, 4 at a time, lane high, nothing known",
             _tasks((4, _uniform(3, 3))), in_flight=4, since=0, seconds=3.5, priority="high"),
    Scenario("scarce", "1,000 at a time, 120 s +-20 %, 100 polls in 10 s",
             _tasks((2000, _uniform(96, 144))), in_flight=1000, since=0, limit=Rate(100, 10.0)),
)  # fmt: skip

CONFIG = """
[redis]
url = "{redis_url}"
[worker]
max_in_flight = {slots}
[storage]
url = "file://{directory}/images"
[metrics]
listen = "127.0.0.1:0"
"""
ACCOUNT = """
[credentials.{name}]
provider = "zimage"
base_url = "{base_url}"
api_key_env = "KEY_{name}"
[quotas.{name}]
in_flight = {in_flight}
{polls}[routes.{name}]
credential = "{name}"
model = "Tongyi-MAI/Z-Image-Turbo"
quotas = ["{name}"]
provider_timeout = "1h"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.account.places", description=__doc__)
    parser.add_argument("--only", help="names of scenarios, comma between")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "places.json", help="where to")
    options = parser.parse_args(arguments)
    chosen = [s for s in SCENARIOS if options.only is None or s.name in options.only.split(",")]
    before = environment()
    server = RedisServer()
    try:
        with tempfile.TemporaryDirectory(prefix="pixmill-places-") as directory:
            plain = [scenario for scenario in chosen if scenario.limit is None]
            runs = measure(server, Path(directory), plain, options.repeats) if plain else []
            for scenario in chosen:
                if scenario.limit is not None:
                    runs += measure(server, Path(directory), [scenario], 1)
    finally:
        server.close()
    kept = [judge(scenario, [run for run in runs if run.scenario == scenario.name]) for scenario in chosen]
    write(options.json, before, runs=[asdict(run) for run in runs], kept=all(kept))
    return 0 if all(kept) else 1


def measure(server: RedisServer, directory: Path, chosen: Sequence[Scenario], repeats: int) -> list[Run]:
    """Run all scenarios beside each other. One with a limit of polls needs a provider for itself."""
    accounts = {f"{scenario.name}{number}": scenario for scenario in chosen for number in range(repeats)}
    limit = chosen[0].limit
    limited = ["--polls", str(limit)] if limit else []
    provider = Provider("--plain", "--timed-prompts", "--kept-pictures", "10000", *limited)
    slots = max(100, *(scenario.in_flight for scenario in chosen))
    config = CONFIG.format(redis_url=server.url, directory=directory, slots=slots) + "".join(
        ACCOUNT.format(
            name=name,
            base_url=provider.url,
            in_flight=scenario.in_flight,
            polls=f'polls = "{limit!s}"\n' if limit else "",
        )
        for name, scenario in accounts.items()
    )
    workers = [Worker(directory, config, {f"KEY_{name}": name for name in accounts}) for _ in range(WORKERS)]
    client: Any = redis.Redis.from_url(server.url, decode_responses=True)
    try:
        for number, (name, scenario) in enumerate(accounts.items()):
            _submit(client, name, scenario, random.Random(number))
        groups: dict[str, dict[str, str]] = {}
        looks: list[Look] = []
        while len(groups) < len(accounts):
            time.sleep(LOOK_S)
            for worker in workers:
                worker.check()
            for name in accounts.keys() - groups.keys():
                group = client.hgetall(f"pixmill:batch:default/{name}")
                if limit:
                    polls = provider.ledger()["polls"]
                    looks.append(Look(time.monotonic(), polls, int(group.get("succeeded", 0))))
                if "finished_us" in group:
                    groups[name] = group
        calls = defaultdict(list)
        for call in provider.ledger(entries=True)["entries"]:
            calls[call["key"]].append(call)
        polls_refused = provider.ledger()["polls_refused"]
    finally:
        for worker in workers:
            worker.end()
        provider.end()
    runs = [
        _figures(scenario, groups[name], calls[digest(name.encode())]) for name, scenario in accounts.items()
    ]
    return [_under_limit(run, chosen[0], looks, polls_refused) if limit else run for run in runs]


def _submit(client: Any, name: str, scenario: Scenario, dice: random.Random) -> None:
    items = [{"id": f"{k}", "prompt": f"takes {s:.3f} s"} for k, s in enumerate(scenario.durations_s(dice))]
    defaults = {
        "size": "512x512",
        "route": name,
        "priority": scenario.priority,
        "output": {"thumbnail": False},
    }
    parts = [items[first : first + PART] for first in range(0, len(items), PART)]
    for number, part in enumerate(parts, 1):
        payload = {"id": name, "defaults": defaults, "items": part, "part": number, "parts": len(parts)}
        client.xadd("pixmill:jobs", {"type": "pixmill.batch.v1", "data": json.dumps(payload)})


def _figures(scenario: Scenario, group: Mapping[str, str], calls: Sequence[dict[str, Any]]) -> Run:
    tasks = sorted((call for call in calls if call["ended_at_s"] is not None), key=lambda call: call["at_s"])
    later, first = tasks[scenario.since :], tasks[:FIRST]
    return Run(
        scenario=scenario.name,
        seconds=(int(group["finished_us"]) - int(group["accepted_us"])) / 1e6,
        span=span(later, scenario.in_flight),
        polls=statistics.mean(task["polls"] for task in later),
        first_span=span(first, scenario.in_flight),
        first_polls=statistics.mean(task["polls"] for task in first),
        mean_gap_s=statistics.mean(task["found_at_s"] - task["ended_at_s"] for task in later),
        handed_on_ms=[1000 * wait_s for wait_s in handed_on_s(later, scenario.in_flight)],
        most_at_once=most_at_once(tasks),
        refused=sum(call["status"] == 429 for call in calls),
        gap_by_turns_s=None
        if scenario.limit is None
        else gap_by_turns_s(
            (task["ended_at_s"] - task["at_s"] for task in tasks),
            scenario.in_flight,
            scenario.limit.count / scenario.limit.window_s,
        ),
    )


def _under_limit(run: Run, scenario: Scenario, looks: Sequence[Look], polls_refused: int) -> Run:
    assert scenario.limit is not None
    idle_from = looks[-1].succeeded - scenario.in_flight
    used = polls_used(looks, idle_from, scenario.limit.count / scenario.limit.window_s)
    return replace(run, polls_used=used, refused=run.refused + polls_refused)


def judge(scenario: Scenario, runs: Sequence[Run]) -> bool:
    """Print the medians of a scenario; returns whether its bounds hold."""

    def median(name: str) -> float:
        return float(statistics.median(getattr(run, name) for run in runs))

    kept = all(run.most_at_once <= scenario.in_flight and not run.refused for run in runs)
    if scenario.limit is not None:
        (run,) = runs
        assert run.polls_used is not None
        assert run.gap_by_turns_s is not None
        kept &= run.polls_used >= USED and run.mean_gap_s <= run.gap_by_turns_s
        text = (
            f"{run.polls_used:.1%} >= {USED:.0%} of the polls used, {run.refused} refused; gap {run.mean_gap_s:.1f} s "
            f"<= {run.gap_by_turns_s:.1f} s by turns; {run.polls:.2f} polls"
        )
    elif scenario.seconds is not None:
        kept &= median("seconds") <= scenario.seconds
        text = f"{median('seconds'):.2f} s <= {scenario.seconds:g} s, {median('polls'):.1f} polls"
    else:
        kept &= median("span") <= scenario.span and median("polls") <= scenario.polls
        kept &= median("first_span") <= FIRST_SPAN and median("first_polls") <= FIRST_POLLS
        spread = f"{min(run.span for run in runs):.3f} to {max(run.span for run in runs):.3f}"
        text = (
            f"{median('span'):.3f} ({spread}) <= {scenario.span} x optimum, {median('polls'):.1f} <= "
            f"{scenario.polls:g} polls; first ten {median('first_span'):.3f}, {median('first_polls'):.1f} polls; "
            f"gap {median('mean_gap_s'):.3f} s; handed on in {_percentile(runs, 50):.0f}/{_percentile(runs, 99):.0f} ms"
        )
    print(f"{scenario.title:58}{text}: {'kept' if kept else 'MISSED'}")
    return kept


def _percentile(runs: Sequence[Run], percent: int) -> float:
    waits_ms = sorted(wait_ms for run in runs for wait_ms in run.handed_on_ms)
    return waits_ms[min(len(waits_ms) - 1, len(waits_ms) * percent // 100)]


if __name__ == "__main__":
    sys.exit(main())
