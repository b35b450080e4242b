"""How well a fleet keeps to a provider's limits: Pixmill's limiter beside five libraries, on the same worker loop.

Run it as ``python -m benchmarks.limiter``. In each run replicas are real processes that start together, take jobs
from one shared list and call a provider, a process too, that enforces the limits on arrival and writes every
arrival down. Contestants run one after the other in a random order; each figure of ours has a bound to reach.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, merged, shown
from benchmarks.limiter.cost import MOST_US, costs, sentence
from benchmarks.limiter.rig import PEERS, run
from benchmarks.limiter.scenarios import MEASURED, SCENARIOS, Scenario, why_not
from benchmarks.limiter.setup import Contestant, Observed, Setup
from benchmarks.processes import server_version
from benchmarks.venvs import BENCHMARKS, python_for

OURS = "pixmill"
# The gate of each contestant and its settings. The first setting takes part in everything. The second one is worse,
# and takes part for comparison only in `burst` at four processes.
SETTINGS: dict[str, tuple[str, ...]] = {
    OURS: ("",),
    "pyrate": ("log", "gcra burst 1"),
    "throttled": ("gcra burst 1", "gcra full burst, own wait"),
    "limits": ("moving window",),
    "redis_rate_limiters": ("capacity 1",),
    "aiolimiter": ("a part each",),
}
LOADED = 0.8  # above this share of the machine's CPUs a run measures the machine


@dataclass(frozen=True)
class Row:
    """A contestant's figures in one setup, over the repeats."""

    scenario: str
    contestant: str
    setting: str
    processes: int
    version: str
    redis_py: str
    figures: list[dict[str, Any]]
    reached: bool
    busy: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit code is 1 if ours missed a bound."""
    options = _parse(arguments)
    pythons = {
        gate: Path(sys.executable) if gate == OURS else python_for(gate, PEERS) for gate in options.gates
    }
    environment = _environment(options)
    runs = asyncio.run(_all_runs(options, pythons))
    environment["load_average_after"] = os.getloadavg()
    rows = summarise(runs)
    print(report(rows, [SCENARIOS[name] for name in options.only], options.gates, environment))
    server_costs = asyncio.run(costs(options.questions))
    print(sentence(server_costs))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"environment": environment, "summary": [asdict(row) for row in rows]}
    document |= {"server_costs": server_costs, "runs": runs}
    options.json.write_text(json.dumps(document, indent=2, default=str) + "\n")
    quick = all(cost["p99_us"] <= MOST_US for cost in server_costs.values())
    return 0 if quick and all(row.reached for row in rows if row.contestant == OURS) else 1


def summarise(runs: Iterable[dict[str, Any]]) -> list[Row]:
    """Medians and spreads; a bound is reached if every single run reached it."""
    groups: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for one in runs:
        key = (one["scenario"], one["contestant"], one["setting"], one["processes"])
        groups.setdefault(key, []).append(one)
    rows = [
        Row(
            *key,
            version=group[0]["version"],
            redis_py=group[0]["redis_py"],
            figures=merged(group),
            reached=all(figure["reached"] for one in group for figure in one["figures"]),
            busy=max(one["busy"] for one in group),
        )
        for key, group in groups.items()
    ]
    places = {name: place for place, name in enumerate(SCENARIOS)}
    gates = list(SETTINGS)
    return sorted(
        rows, key=lambda row: (places[row.scenario], row.processes, gates.index(row.contestant), row.setting)
    )


def report(
    rows: Sequence[Row], scenarios: Sequence[Scenario], gates: Sequence[str], environment: dict[str, Any]
) -> str:
    """The table: a block a scenario, a line a contestant, in each figure its bound."""
    lines: list[str] = []
    for scenario in scenarios:
        lines += ["", f"{scenario.name}: {scenario.title}"]
        for row in (row for row in rows if row.scenario == scenario.name):
            who = f"{row.contestant} {row.version}" + (f", {row.setting}" if row.setting else "")
            verdict = "reached" if row.reached else "MISSED" if row.contestant == OURS else "missed"
            loaded = " (loaded!)" if row.busy > LOADED else ""
            figures = ", ".join(map(shown, row.figures))
            lines.append(
                f"  {row.processes:>2} proc  {who:<48} {verdict:<8} {figures}, CPU {row.busy:.0%}{loaded}"
            )
        for gate in gates:
            if (reason := why_not(scenario, gate)) is not None:
                lines.append(f"           {gate:<48} no answer: {reason}")
    facts = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in environment.items())
    return "\n".join([*lines, "", facts]).lstrip("\n")


async def _all_runs(options: argparse.Namespace, pythons: dict[str, Path]) -> list[dict[str, Any]]:
    scenarios = [SCENARIOS[name] for name in options.only]
    runs: list[dict[str, Any]] = []
    # Long waits with hardly any work run beside the other scenarios, after their processes have started.
    waiting = []
    for scenario in (scenario for scenario in scenarios if scenario.long_wait):
        for contestant in _contestants(scenario, scenario.setup, options.gates, pythons):
            begun = asyncio.Event()
            task = asyncio.create_task(_one(scenario, scenario.setup, contestant, begun))
            waiting.append(task)
            await asyncio.wait([task, asyncio.ensure_future(begun.wait())], return_when="FIRST_COMPLETED")
    for _ in range(options.repeats):
        for scenario in (scenario for scenario in scenarios if not scenario.long_wait):
            for setup in scenario.setups(options.horizon):
                contestants = _contestants(scenario, setup, options.gates, pythons)
                order = random.sample(contestants, len(contestants))
                runs += [await _one(scenario, setup, contestant) for contestant in order]
    return runs + await asyncio.gather(*waiting)


def _contestants(
    scenario: Scenario, setup: Setup, gates: Sequence[str], pythons: dict[str, Path]
) -> list[Contestant]:
    return [
        Contestant(gate, gate, setting, pythons[gate], own=gate == OURS)
        for gate in gates
        if why_not(scenario, gate) is None
        for number, setting in enumerate(SETTINGS[gate])
        if number == 0 or (scenario.name == "burst" and setup.processes == 4)
    ]


async def _one(
    scenario: Scenario, setup: Setup, contestant: Contestant, begun: asyncio.Event | None = None
) -> dict[str, Any]:
    seen = await run(contestant, setup, begun)
    figures = scenario.judge(seen)
    document = _run_document(scenario, contestant, seen, figures)
    text = ", ".join(shown(figure) for figure in merged([document]))
    print(
        f"{scenario.name} {setup.processes} {contestant.name} {contestant.setting}: {text}", file=sys.stderr
    )
    return document


def _run_document(
    scenario: Scenario, contestant: Contestant, seen: Observed, figures: Sequence[Figure]
) -> dict[str, Any]:
    start = seen.started_at_s
    return {
        "scenario": scenario.name,
        "contestant": contestant.name,
        "setting": contestant.setting,
        "processes": seen.setup.processes,
        "version": seen.reports[0]["version"] if seen.reports else "",
        "redis_py": seen.reports[0]["redis_py"] if seen.reports else "",
        "figures": [asdict(figure) | {"reached": figure.reached} for figure in figures],
        "busy": round(seen.busy, 3),
        "load_average": os.getloadavg(),
        "unsupported": seen.unsupported,
        "reports": seen.reports,
        "commandstats": seen.commands,
        "events": {name: round(at_s - start, 3) for name, at_s in seen.events_at_s.items()},
        "refused": [(round(a.at_s - start, 4), a.model, a.rule, a.replica) for a in seen.refused[:200]],
        "admitted": [round(a.at_s - start, 4) for a in seen.admitted],
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limiter", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(MEASURED), metavar="SCENARIO",
                        help=f"of {', '.join(SCENARIOS)}")  # fmt: skip
    peers = [gate for gate in SETTINGS if gate != OURS]
    parser.add_argument(
        "--peers", nargs="*", choices=peers, default=peers, help="beside ours; none: ours alone"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--questions", type=int, default=4000, help="of which the server's costs are measured"
    )
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "limiter.json", help="where to")
    parser.add_argument("--horizon", type=float, metavar="SECONDS", help="how far ahead ours takes a slot")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats begins at 1.")
    options.gates = [OURS, *options.peers]
    return options


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "repeats": options.repeats,
        "server": server_version(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average_before": os.getloadavg(),
    }


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{number:.1f}" for number in value)
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
