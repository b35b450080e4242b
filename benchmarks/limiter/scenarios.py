"""The scenarios of the limiter benchmark: the jobs, the provider's rules, and the bounds for ours."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from benchmarks.limiter import figures
from benchmarks.limiter.figures import Judge
from benchmarks.limiter.provider import Refusal, Rule, Rules
from benchmarks.limiter.setup import Event, Job, Setup


@dataclass(frozen=True)
class Scenario:
    """`cannot` has, by gate (or "*" for all others), the reason why a contestant does not take part."""

    name: str
    title: str
    judge: Judge
    setup: Setup
    processes: tuple[int, ...] = (4,)
    cannot: Mapping[str, str] = field(default_factory=dict)
    long_wait: bool = False  # hardly any work: all contestants at once, beside the other scenarios

    def setups(self, horizon_s: float | None = None) -> list[Setup]:
        options = dict(self.setup.options) | ({} if horizon_s is None else {"horizon_s": horizon_s})
        return [replace(self.setup, processes=count, options=options) for count in self.processes]


def _jobs(count: int, service_s: float = 0.01, model: str = "A", first: int = 0) -> tuple[Job, ...]:
    return tuple(Job(first + number, model, service_s=service_s) for number in range(count))


def _varied(count: int, shortest_s: float, longest_s: float, ns: tuple[int, ...] = (1,)) -> tuple[Job, ...]:
    """The same jobs in each run."""
    draw = random.Random(7)
    return tuple(
        Job(number, n=draw.choice(ns), service_s=round(draw.uniform(shortest_s, longest_s), 3))
        for number in range(count)
    )


def _window(name: str, count: int, window_s: float) -> Rule:
    return Rule(name, count, window_s)


_SHARED_OUT = "a limit of 1 cannot be divided among processes"
# pyrate-limiter takes part, as the best of them here: it shows the effect of chained limiters.
_CHAINED = "two limits are two calls: the one is charged while the other still waits"
_NO_PENALTY = {"*": "no shared answer to a 429: each caller waits by itself"}
_NO_ADAPTIVE = {"*": "its rate is fixed"}
_NO_VECTOR = {"*": "no call that takes several rates, a cost of n and a place in flight, all or nothing"}

_FIFTY = {"main": {"requests": "50/5s"}}
_FIFTY_RULES = Rules((_window("main", 50, 5),))


def _tiny() -> Setup:
    """For the smoke test: a second or two, not a measurement."""
    return Setup(
        jobs=_jobs(20),
        quotas={"main": {"requests": "10/s"}},
        rules=Rules((_window("main", 10, 1),)),
        processes=1,
    )


def _sustained() -> Setup:
    return Setup(
        jobs=_jobs(480),
        quotas={"main": {"requests": "60/10s"}},
        rules=Rules((_window("main", 60, 10),)),
        steady_after_s=15,
        stop_after_s=61,
    )


def _several() -> Setup:
    return Setup(
        # n is drawn so that in the first minute both 120 requests and 200 pictures are near.
        jobs=_varied(150, 1.5, 2.5, (1, 1, 1, 1, 2, 2, 4)),
        quotas={
            "main": {"requests": ["10/s", "120/min"], "images": "200/min", "in_flight": 16},
        },
        rules=Rules(
            (
                _window("second", 10, 1),
                _window("minute", 120, 60),
                Rule("images", 200, 60, unit="images"),
                Rule("in_flight", 16),
            )
        ),
    )


def _shared() -> Setup:
    return Setup(
        jobs=(*_jobs(20, model="A"), *_jobs(330, model="B", first=1000)),
        quotas={"account": {"requests": "10/s"}, "model-a": {"requests": "1/s"}},
        models={"A": ("account", "model-a"), "B": ("account",)},
        rules=Rules((_window("account", 10, 1), Rule("model-a", 1, 1, models=("A",)))),
        stop_after_s=31,
    )


def _refusal() -> Setup:
    return Setup(
        # One call is due every 30 ms with its guard, so some 32 run at any time. A few more are refused until the reply
        # is back, and grants of the next ones are out then. The provider's other limits are far away.
        jobs=_varied(600, 0.9, 1.1),
        quotas={"main": {"requests": {"every": "25ms"}, "in_flight": 48}},
        rules=Rules(
            (_window("main", 60, 1), Rule("in_flight", 48)), Refusal(at_s=3, retry_after_s=5, reply_s=0.1)
        ),
        tasks=16,
        stop_after_s=11,
    )


def _cut() -> Setup:
    return Setup(
        jobs=_jobs(800),
        quotas={"main": {"requests": "40/4s", "adaptive": True}},
        rules=Rules((Rule("main", 40, 4, then_at_s=20, then_count=20),)),
        stop_after_s=48,
    )


def _outage() -> Setup:
    return Setup(
        jobs=_jobs(150),
        quotas=_FIFTY,
        rules=_FIFTY_RULES,
        events=(Event(2, "SCRIPT FLUSH"), Event(8, "restart")),
        aof=True,
        limit_s=30,
    )


def _idle() -> Setup:
    return Setup(
        jobs=(Job(0), Job(1, later_s=31)),
        quotas={"main": {"requests": "1/min"}},
        rules=Rules((_window("main", 1, 60),)),
        processes=2,
        tasks=1,
        limit_s=95,
    )


def _crash() -> Setup:
    return Setup(
        jobs=_varied(200, 4, 6),  # a call outlives the lease of its dead caller
        quotas={"main": {"in_flight": 8}},
        rules=Rules((Rule("main", 8),)),
        tasks=4,
        events=(Event(6, "kill"),),
        options={"lease_s": 3.0, "longest_call_s": 6.5},
        stop_after_s=26,
        limit_s=60,
    )


_BURST = Setup(jobs=_jobs(200), quotas=_FIFTY, rules=_FIFTY_RULES)
_SKEWED = replace(_BURST, jobs=_jobs(100), clock_offsets_s=(-10.0, -3.0, 3.0, 10.0), limit_s=30)

_ALL: tuple[Scenario, ...] = (
    Scenario("burst", "50 per 5 s, 200 jobs", figures.burst(15.4), _BURST, (1, 4, 16)),
    Scenario("sustained", "60 per 10 s for 60 s", figures.sustained(60), _sustained()),
    Scenario("several", "10/s + 120/min + 200 img/min + 16 in flight", figures.several(1.03), _several(),
             cannot=_NO_VECTOR),
    Scenario("shared", "account 10/s: model A 1/s and model B, 30 s", figures.shared(30), _shared(),
             cannot={"aiolimiter": _SHARED_OUT, "throttled": _CHAINED, "limits": _CHAINED,
                     "redis_rate_limiters": _CHAINED}),
    Scenario("refusal", "one 429, Retry-After 5 s, 32 in flight", figures.refusal, _refusal(), cannot=_NO_PENALTY),
    Scenario("cut", "40 per 4 s, cut to 20 at 20 s", figures.cut, _cut(), cannot=_NO_ADAPTIVE),
    Scenario("outage", "50 per 5 s, 150 jobs, SCRIPT FLUSH at 2 s, Redis restart at 8 s", figures.outage(13), _outage(),
             cannot={"aiolimiter": "needs no Redis"}),
    Scenario("clocks", "50 per 5 s, replicas' clocks -10, -3, +3, +10 s", figures.burst(5.3), _SKEWED,
             cannot={"aiolimiter": "needs no clock"}),
    Scenario("idle", "1 per 60 s, idle for 31 s", figures.idle, _idle(), cannot={"aiolimiter": _SHARED_OUT},
             long_wait=True),
    Scenario("crash", "SIGKILL of 1 of 4 replicas, 8 in flight", figures.crash, _crash(),
             cannot=dict.fromkeys(("pyrate", "throttled", "limits", "aiolimiter"), "no limit on calls in flight")),
    Scenario("tiny", "10 per 1 s, 20 jobs", figures.burst(1.5), _tiny(), (1,)),
)  # fmt: skip

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
# Everything but the smoke test's.
MEASURED: tuple[str, ...] = tuple(name for name in SCENARIOS if name != "tiny")


def why_not(scenario: Scenario, gate: str) -> str | None:
    """The reason why the contestants of this gate do not take part in the scenario; None if they do."""
    return None if gate == "pixmill" else scenario.cannot.get(gate, scenario.cannot.get("*"))
