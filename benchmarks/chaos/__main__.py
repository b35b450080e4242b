"""Chaos: three replicas, four routes, faults, and every two seconds a kill, a stop or a cut; then the invariants.

Run it as ``python -m benchmarks.chaos``. Work, faults and strikes come from the seed, which is printed; when they meet
is up to the machine. The provider's side is the simulator's own books, the other side is Redis and the object
store. Exit code 0: every invariant holds, and the measured promises are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio

from benchmarks.chaos.fairness import BOUND_SLOTS, Waits, waits
from benchmarks.chaos.invariants import violations
from benchmarks.chaos.losses import Loss, losses
from benchmarks.chaos.plan import ROUTES, make_plan
from benchmarks.chaos.recovery import BOUND_S, recoveries
from benchmarks.chaos.scarce import few_descriptors
from benchmarks.chaos.stage import Stage
from benchmarks.chaos.story import Story, read_story
from benchmarks.chaos.strikes import REPLICAS, Director
from benchmarks.venvs import BENCHMARKS
from tests.servers import RedisServer

START_S = 300.0  # a busy machine takes long to start an interpreter
CALM_S = 90.0
SHOWN = 5


@dataclass
class Outcome:
    """The result of a run."""

    seed: int
    items: int
    took_s: float
    rested: bool  # whether every item ended or was held in time
    states: dict[str, int]
    struck: dict[str, int]
    calls: dict[str, int]
    broken: dict[str, list[str]]
    recoveries_s: list[float] = field(default_factory=list)
    recovery_bound_s: float = BOUND_S
    waits_slots: tuple[int, ...] = ()
    losses: list[Loss] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every invariant and every promise was kept."""
        fair = Waits(self.waits_slots).more_than_alone <= BOUND_SLOTS
        quick = all(seconds <= BOUND_S for seconds in self.recoveries_s)
        safe = all(loss.held for loss in self.losses)
        return self.rested and fair and quick and safe and not any(self.broken.values())


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="pixmill-chaos-"))
    outcome = run(directory, options.items, options.seed, options.minutes * 60, options.kills)
    print(table(outcome))
    document = {"environment": _environment(), "held": outcome.held, **asdict(outcome)}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2) + "\n")
    if outcome.held:
        shutil.rmtree(directory)
    else:
        print(f"the story and the replicas' logs are in {directory}")
    return 0 if outcome.held else 1


def run(directory: Path, items: int, seed: int, longest_s: float, kills: int) -> Outcome:
    """Run everything; the pictures and the replicas' logs stay in `directory`."""
    plan = make_plan(items, seed)
    stage = Stage(directory)
    try:
        stage.set_faults(plan)
        _start(stage)
        director = Director(stage, plan)
        started = time.monotonic()
        rested = director.run(longest_s)
        took_s = time.monotonic() - started
        rested = director.calm(CALM_S) and rested
        exit_codes = [replica.command.process.wait() for replica in director.deployed]
        story = read_story(stage, plan, exit_codes)
        outcome = Outcome(
            seed,
            items,
            took_s,
            rested,
            dict(Counter(record.get("state", "lost") for record in story.records.values())),
            dict(director.struck),
            _calls(story),
            violations(story),
        )
        if any(outcome.broken.values()):
            (directory / "story.json").write_text(json.dumps(asdict(story), indent=1, default=sorted))
        if rested:
            outcome.recoveries_s = recoveries(stage, kills)
            outcome.losses = [*losses(stage, directory), few_descriptors(directory, items)]
        outcome.waits_slots = asyncio.run(_waits()).slots
        return outcome
    finally:
        stage.close()
        for replica in stage.fleet.all:
            (directory / f"{replica.name}.log").write_text(replica.command.output)


def table(outcome: Outcome) -> str:
    """The outcome as plain text."""
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(outcome.states.items()))
    struck = ", ".join(f"{count} x {what}" for what, count in sorted(outcome.struck.items()))
    calls = outcome.calls
    rows = [
        ("items", f"{outcome.items:,} over {len(ROUTES)} routes: {states}"),
        ("took", f"{outcome.took_s:.0f} s" + ("" if outcome.rested else ", and DID NOT COME TO REST")),
        ("struck", struck),
        (
            "calls",
            f"{calls['arrived']:,} arrived, {calls['charged']:,} were charged, {calls['turned away']:,} faults",
        ),
    ]
    for name, broken in outcome.broken.items():
        rows.append((name, f"{len(broken)}" + ("" if not broken else "  BROKEN")))
        rows += [("", f"  {sentence}") for sentence in broken[:SHOWN]]
    slowest_s = max(outcome.recoveries_s, default=None)
    if slowest_s is not None:
        rows.append(
            (
                "recovery after SIGKILL",
                f"{slowest_s:.1f} s at most of {len(outcome.recoveries_s)} kills; at most {BOUND_S:g}",
            )
        )
    for row in (row for loss in outcome.losses for row in loss.rows()):
        rows.append((row.name, row.text + ("  BROKEN" if row.broken else "")))
        rows += [("", f"  {sentence}") for sentence in row.broken[:SHOWN]]
    more = Waits(outcome.waits_slots).more_than_alone
    rows.append(("4 items beside 10,000", f"{more} slots more than alone; at most {BOUND_SLOTS}"))
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in rows)


def _start(stage: Stage) -> None:
    for _ in range(REPLICAS):
        stage.fleet.start()
    for replica in stage.fleet.all:
        replica.command.wait_for("replica started", START_S)


def _calls(story: Story) -> dict[str, int]:
    calls = story.calls
    return {
        "arrived": len(calls),
        "admitted": sum(call.admitted for call in calls),
        "charged": sum(call.paid for call in calls),
        "turned away": sum(not call.admitted for call in calls),
    }


async def _waits() -> Waits:
    server = await asyncio.to_thread(RedisServer)
    try:
        async with redis.asyncio.Redis.from_url(server.url) as client:
            return await waits(client)
    finally:
        server.close()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of work, faults and strikes"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="it must have come to rest by then")
    parser.add_argument("--kills", type=int, default=5, help="of which the recovery is measured")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "chaos.json", help="where to")
    options = parser.parse_args(arguments)
    if options.items < 1 or options.minutes <= 0 or options.kills < 0:
        parser.error("--items begins at 1, --minutes above 0, --kills at 0.")
    return options


def _environment() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average_after": os.getloadavg(),
    }


if __name__ == "__main__":
    sys.exit(main())
