"""The costs that Pixmill had, should have, and has: the table of docs/measured/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.report import quiet

BUSY = "no ratio (the machine was busy, or a contestant is missing)"
Document = Mapping[str, Any]
Results = Mapping[str, Document]


@dataclass(frozen=True)
class Goal:
    """One cost. `now` reads it from the results of the benchmark `part`."""

    what: str
    was: str
    goal: str
    part: str
    now: Callable[[Document], str]


def goals(results: Results) -> str:
    """The table in Markdown; a part without results was not measured."""
    lines = ["| | was | goal | now |", "|---|---|---|---|"]
    for goal in GOALS:
        now = goal.now(results[goal.part]) if goal.part in results else "not measured"
        lines.append(f"| {goal.what} | {goal.was} | {goal.goal} | {now} |")
    return "\n".join(lines)


def row(document: Document, **wanted: object) -> Mapping[str, Any]:
    """The row of the summary with these values; raises KeyError when there is none."""
    for found in document["summary"]:
        if all(found.get(name) == value for name, value in wanted.items()):
            return dict(found)
    raise KeyError(f"no row with {wanted}")


def _figure(name: str, unit: str, digits: int = 0) -> Callable[[Document], str]:
    """A row that is one figure, whose number is its `value`, or `median`."""

    def now(document: Document) -> str:
        found = row(document, name=name)
        return f"{found.get('value', found.get('median')):,.{digits}f} {unit}"

    return now


def _ratios(document: Document) -> str:
    ours = row(document, name="pixmill")
    best = max(
        (one for one in document["summary"] if one["name"] not in ("pixmill", "bare")),
        key=lambda one: float(one["median"]),
        default=None,
    )
    if best is None or ours["to_bare"] is None or ours["to_best_peer"] is None:
        return BUSY
    return f"{ours['to_best_peer']:.1f} x ({best['name']}), {ours['to_bare']:.2f}"


def _drain_cpu(document: Document) -> str:
    ours = row(document, name="pixmill")
    return f"{ours['worker_cpu_us']:.0f} / {ours['server_cpu_us']:.0f} us"


def _backlog(document: Document) -> str:
    found = [row(document, name=name)["cpu_to_few"] for name in ("queued", "tenants")]
    if None in found:
        return BUSY
    return "; ".join(f"{value:.2f}" for value in found)


def _bytes(document: Document) -> str:
    names = ("queued, single", "queued, batch", "finished, single", "finished, batch")
    return " / ".join(f"{row(document, name=name)['beyond']:,.0f}" for name in names)


def _first_byte(document: Document) -> str:
    ours, trips = row(document, name="pixmill"), document["environment"].get("commands_before_first_byte")
    parts = [f"p50 {ours['p50_ms']:.1f}, p99 {ours['p99_ms']:.1f} ms"]
    parts += [f"{trips:g} round trips"] if trips is not None else []
    if ours["to_saq"] is not None:
        parts.append(f"{ours['to_saq']:.2f} x saq" if quiet(document["environment"]) else BUSY)
    return "; ".join(parts)


def _paced(document: Document) -> str:
    (found,) = document["summary"]
    return "; ".join(f"{us / 1000:.2f} ms (slot {mode})" for mode, us in found["cpu_us"].items())


def _longest(document: Document) -> str:
    (found,) = document["summary"]
    script, us = max(found["longest_us"].items(), key=lambda one: float(one[1]))
    return f"{us / 1000:.1f} ms ({script})"


def _ready(document: Document) -> str:
    return f"{_figure('s until ready, worker', 's', 1)(document)} / {_figure('MiB at rest, worker', 'MiB')(document)}"


GOALS = (
    Goal("CPU of a JPEG (300 KB) that the provider sent, job without `output.format`", "1,339 ms", "<= 30 ms",
         "pictures", _figure("ms CPU: JPEG of 300 KB", "ms")),
    Goal("CPU of a PNG of 1.3 MB, 1024 x 1024, with thumbnail", "176 ms", "<= 90 ms",
         "pictures", _figure("ms CPU: PNG of 1.3 MB", "ms")),
    Goal("CPU of a tiny picture end to end, real HTTP", "9.7 to 12.3 ms", "<= 5 ms",
         "flight", _figure("CPU of an item", "ms", 1)),
    Goal("longest block of the event loop at 5 PNG/s", "45 ms", "<= 10 ms",
         "pictures", _figure("ms of the loop at 5 PNG/s, longest", "ms")),
    Goal("XADD to the provider's first byte, idle, one quota", "p50 7.0, p99 10 to 20 ms; five round trips in series",
         "p50 <= 3.5, p99 <= 8 ms; three round trips; <= 1.5 x saq", "latency", _first_byte),
    Goal("Redis CPU of a paced item (accept, permit, claim, intent, settle, release)", "1.24 ms", "<= 0.6 ms",
         "paced", _paced),
    Goal("no-op drain, one worker, to the fastest Python peer and to the bare loop", "2.9 x, 0.28", ">= 5 x, >= 0.4",
         "throughput", _ratios),
    Goal("CPU an item in the drain, worker / server", "95 / 119 us", "<= 70 / 85 us", "throughput", _drain_cpu),
    Goal("Redis bytes beyond payload: queued single / in a batch / finished single / in a batch",
         "1,544 / 1,711 / 3,456 to 4,546", "<= 900 / 900 / <= 2,000", "footprint", _bytes),
    Goal("an item in flight with the real HTTP client", "31.8 KB", "<= 16 KB",
         "flight", _figure("memory of an item in flight", "KiB", 1)),
    Goal("one script's longest run", "3 to 5 ms (rounds of 64)", "<= 2 ms", "paced", _longest),
    Goal("`pixmill status` on a small record", "1.4 s", "<= 0.4 s", "start", _figure("s, `pixmill status`", "s", 2)),
    Goal("worker ready / RSS idle", "3.9 s / 80 to 87 MB", "<= 1.5 s / <= 70 MB", "start", _ready),
    Goal("drain cost an item, 1 million queued / 10 thousand; 10,000 tenants / 1", "not measured", "<= 1.1; <= 1.3",
         "backlog", _backlog),
)  # fmt: skip
