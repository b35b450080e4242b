"""The values of a run of the limiter benchmark: its setup, its contestants, and its observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.limiter.provider import Arrival, Rules
from limiter import QuotaError, QuotaState, parse_quota


@dataclass(frozen=True)
class Job:
    """See peers/gate.py. One that is `later_s` is not in the list before."""

    id: int
    model: str = "A"
    n: int = 1
    service_s: float = 0.01
    later_s: float = 0.0


@dataclass(frozen=True)
class Event:
    """Something that happens to the run, `at_s` seconds after the start: see `_EVENTS`."""

    at_s: float
    kind: str


@dataclass(frozen=True)
class Setup:
    """The input of a run: jobs, quotas as the replicas know them, rules as the provider enforces them.

    All jobs should end within `limit_s`; a run with more jobs than it can do ends at `stop_after_s`.
    """

    jobs: tuple[Job, ...]
    quotas: Mapping[str, Mapping[str, Any]]
    rules: Rules
    models: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"A": ("main",)})
    processes: int = 4
    tasks: int = 8
    stop_after_s: float | None = None
    steady_after_s: float = 0.0  # calls a job are counted from here on
    limit_s: float = 90.0
    clock_offsets_s: tuple[float, ...] = (0.0,)
    events: tuple[Event, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    aof: bool = False


@dataclass(frozen=True)
class Contestant:
    """A limiter in one setting; `python` is of the environment that has it."""

    name: str
    gate: str
    setting: str
    python: Path
    own: bool = False  # imports the project


@dataclass
class Observed:
    """The observations of a run. Arrivals are in their order; times are of the machine's monotonic clock."""

    setup: Setup
    arrivals: list[Arrival]
    reports: list[dict[str, Any]]
    started_at_s: float
    events_at_s: dict[str, float]
    states: dict[str, QuotaState]
    leases_left: int | None
    commands: dict[str, int]
    busy: float
    stopped: bool
    unsupported: str | None

    @property
    def admitted(self) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.status == 200]

    @property
    def refused(self) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.status == 429]

    def total(self, name: str) -> int:
        return sum(report[name] for report in self.reports)


def understood(specs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], str | None]:
    """The quotas in the form that this version accepts, and its error if it refused `adaptive`."""
    taken, refusal = {}, None
    for name, spec in specs.items():
        try:
            parse_quota(name, spec)
            taken[name] = dict(spec)
        except QuotaError as error:
            if "adaptive" not in spec:
                raise
            refusal = str(error)
            taken[name] = {key: value for key, value in spec.items() if key != "adaptive"}
    return taken, refusal
