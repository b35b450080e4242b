"""The figures of a run, each with the bound for ours; computed from the provider's ledger alone where possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from benchmarks.figures import Figure
from benchmarks.limiter.oracle import (
    between,
    greedy_slots,
    last_before,
    most_admissible,
    most_at_once,
    most_in_window,
    steady_rate,
)
from benchmarks.limiter.setup import Observed

SILENT_S = 0.05
REOPENED_S = 0.1
NEW_QUOTA_SHARE = 0.9
PERIODS_TO_SETTLE = 5
CALLS_A_JOB = 1.5  # of Redis


Judge = Callable[[Observed], list[Figure]]


def basics(seen: Observed) -> list[Figure]:
    """The figures of every run."""
    done = seen.total("done") - seen.total("early_done")
    calls = (seen.total("redis_calls") - seen.total("early_redis_calls")) / done if done else None
    figures = [
        Figure("x 429", len(seen.refused), at_most=0),
        Figure("calls/job", calls, CALLS_A_JOB, digits=2),
    ]
    if seen.total("errors"):
        figures.append(Figure("errors", seen.total("errors"), at_most=0))
    if missing := _missing(seen):
        figures.append(Figure("jobs never done", missing, at_most=0))
    if not seen.stopped:
        figures.append(Figure("replicas that never stopped", 1, at_most=0))
    return figures


def burst(at_most_s: float) -> Judge:
    """All jobs as fast as the window allows. The makespan is from the first to the last admitted arrival."""

    def judge(seen: Observed) -> list[Figure]:
        return [
            *basics(seen),
            Figure("s makespan", _makespan_s(seen), at_most=at_most_s, digits=2),
            *_full(seen),
        ]

    return judge


def sustained(duration_s: float) -> Judge:
    """More jobs than fit. Utilisation compares with a sender without any overhead in the same time."""

    def judge(seen: Observed) -> list[Figure]:
        (rule,) = seen.setup.rules.rules
        window_s = rule.window_s or 0.0
        times = [arrival.at_s for arrival in seen.admitted]
        first = times[0] if times else 0.0
        used = between(times, first, first + duration_s) / most_admissible(rule.count, window_s, duration_s)
        steady = steady_rate(times, rule.count, window_s)
        refused, calls, *others = basics(seen)
        return [
            refused,
            Figure("% used", 100 * used, at_least=99, digits=1),
            Figure("% of the rate in the steady state", None if steady is None else 100 * steady, digits=1),
            Figure(calls.name, calls.value, at_most=1.1, digits=2),
            *others,
            *_full(seen),
        ]

    return judge


def several(share: float) -> Judge:
    """Several limits at once, beside the greedy oracle that knows all jobs and has no overhead."""

    def judge(seen: Observed) -> list[Figure]:
        jobs = [(job.n, job.service_s) for job in seen.setup.jobs]
        best_s = max(greedy_slots(seen.setup.rules.rules, jobs))
        makespan_s = _makespan_s(seen)
        ratio = None if makespan_s is None else makespan_s / best_s
        return [
            *basics(seen),
            Figure("x the oracle", ratio, at_most=share, digits=3),
            Figure("s makespan", makespan_s, digits=1),
            Figure("at once", _most_running(seen)),
        ]

    return judge


def shared(duration_s: float) -> Judge:
    """Model A's own limit may not hold up model B, nor B's many jobs starve A."""

    def judge(seen: Observed) -> list[Figure]:
        first = seen.admitted[0].at_s if seen.admitted else 0.0
        of = {m: [a.at_s for a in seen.admitted if a.model == m] for m in seen.setup.models}
        return [
            *basics(seen),
            Figure("A", between(of["A"], first, first + duration_s), at_least=19),
            Figure("B", between(of["B"], first, first + duration_s), at_least=270),
            Figure("B in 10 s", between(of["B"], first, first + 10), at_least=85),
        ]

    return judge


def refusal(seen: Observed) -> list[Figure]:
    """One 429: every replica is silent for the whole Retry-After once its reply is there, and the refusal counts once.

    Silence shows something only if calls were due in it: their grants were recalled, or they came nevertheless.
    """
    injected = next((a.at_s for a in seen.refused if a.rule == "injected"), None)
    if injected is None or seen.setup.rules.refusal is None:
        return [Figure("refusals injected", 0, at_least=1)]
    rule = seen.setup.rules.refusal
    heard = injected + rule.reply_s
    opens = heard + rule.retry_after_s
    times = [a.at_s for a in seen.arrivals]
    echo_s = max(0.0, (last_before(times, opens - 1e-9) or heard) - heard)
    recalled = [at for report in seen.reports for at in report["notes"].get("recalled_at_s", [])]
    due = sum(heard <= at < opens for at in recalled) + between(times, heard, opens)
    after = sum(a.at_s >= opens for a in seen.refused)
    again = next((at for at in times if at >= opens), None)
    cuts = max((state.cooldown_generation for state in seen.states.values()), default=None)
    running = sum(a.at_s <= injected < (a.ended_at_s or injected) for a in seen.admitted)
    return [
        Figure("in flight at the 429", running),
        Figure("x 429 before", sum(a.at_s < injected for a in seen.refused), at_most=0),
        Figure("calls due in the silence", due, at_least=1),
        Figure("ms until silent", 1e3 * echo_s if due else None, at_most=1e3 * SILENT_S, digits=1),
        Figure("x 429 meanwhile", sum(injected < a.at_s < opens for a in seen.refused)),
        Figure("cut", cuts, at_most=1, at_least=1),
        Figure("x 429 after", after, at_most=0),
        Figure(
            "ms from opening to the next call",
            None if again is None else 1e3 * (again - opens),
            at_most=1e3 * REOPENED_S,
            digits=1,
        ),
    ]


def cut(seen: Observed) -> list[Figure]:
    """The provider halves a quota unannounced. Settled is a period of the new quota, well used, with one 429 at
    most (a probe).
    """
    (rule,) = seen.setup.rules.rules
    window_s, count = rule.window_s or 0.0, rule.then_count or 0
    begin = seen.started_at_s + (rule.then_at_s or 0.0)
    periods = int((seen.setup.stop_after_s or 0.0) - (rule.then_at_s or 0.0)) // round(window_s)
    admitted, refused = [a.at_s for a in seen.admitted], [a.at_s for a in seen.refused]
    counts = [
        tuple(between(ts, begin + k * window_s, begin + (k + 1) * window_s) for ts in (admitted, refused))
        for k in range(periods)
    ]
    settled = next(
        (k for k, (well, ill) in enumerate(counts) if well >= NEW_QUOTA_SHARE * count and ill <= 1), periods
    )
    late = counts[PERIODS_TO_SETTLE:]
    used = sum(well for well, _ in late) / (count * len(late)) if late else None
    return [
        Figure("x 429 before the cut", between(refused, 0, begin), at_most=0),
        Figure("x 429 after it", sum(ill for _, ill in counts), at_most=10),
        Figure("periods until settled", settled, at_most=PERIODS_TO_SETTLE),
        Figure(
            f"% used from period {PERIODS_TO_SETTLE}",
            None if used is None else 100 * used,
            at_least=100 * NEW_QUOTA_SHARE,
            digits=0,
        ),
        basics(seen)[1],
    ]


def outage(at_most_s: float) -> Judge:
    """Scripts forgotten, Redis restarted: its caller sees Redis away, as it must, and no other exception."""

    def judge(seen: Observed) -> list[Figure]:
        return [
            *(figure for figure in basics(seen) if figure.name != "errors"),
            Figure("exceptions", seen.total("errors"), at_most=0),
            Figure("times away", seen.total("away")),
            Figure("s makespan", _makespan_s(seen), at_most=at_most_s, digits=2),
        ]

    return judge


def idle(seen: Observed) -> list[Figure]:
    """The state of a slow limit outlives a pause without requests."""
    gaps = [b.at_s - a.at_s for a, b in pairwise(seen.admitted)]
    return [
        *basics(seen),
        Figure("s between the calls", min(gaps, default=None), at_most=61, digits=2),
    ]


def crash(seen: Observed) -> list[Figure]:
    """A replica dies with calls at the provider: they still count there, and none of their places is lost.

    The calls of Redis have no bound. 8 places and calls of 5 s are 1.6 jobs a second, and each job needs `acquire` and
    `submitted`. Each of 3 or 4 processes renews its leases of 3 s once a second, about 2 times a job; even once a lease
    would make 2.6 calls a job, and one lost call would then lose the places. A place that goes to another process is
    one request more.
    """
    (rule,) = seen.setup.rules.rules
    end = seen.started_at_s + (seen.setup.stop_after_s or 0.0)
    last = [(a.at_s, a.ended_at_s or end) for a in seen.admitted if (a.ended_at_s or end) > end - 5]
    killed = seen.events_at_s["kill"]
    held = sum(a.replica == 0 and a.at_s < killed < (a.ended_at_s or end) for a in seen.admitted)
    spans = [(max(begin, end - 5), min(stop, end)) for begin, stop in last if begin < end]
    return [
        Figure("calls of the dead", held),
        Figure("x 429", len(seen.refused), at_most=0),
        Figure("at once", _most_running(seen), at_most=rule.count),
        Figure("at once in the last 5 s", most_at_once(spans), at_least=rule.count),
        Figure("leases left", seen.leases_left, at_most=0),
        replace(basics(seen)[1], at_most=None),
    ]


def _makespan_s(seen: Observed) -> float | None:
    admitted = seen.admitted
    return admitted[-1].at_s - admitted[0].at_s if admitted and not _missing(seen) else None


def _missing(seen: Observed) -> int:
    """How many jobs were never admitted, in a run that should admit all."""
    if seen.setup.stop_after_s is not None:
        return 0
    return len(seen.setup.jobs) - len({arrival.job for arrival in seen.admitted})


def _most_running(seen: Observed) -> int:
    return most_at_once((a.at_s, a.ended_at_s or a.at_s) for a in seen.admitted)


def _full(seen: Observed) -> list[Figure]:
    """The most that arrived in one window of the provider, refused calls included."""
    (rule,) = seen.setup.rules.rules
    most = most_in_window(((a.at_s, 1) for a in seen.arrivals), rule.window_s or 0.0)
    return [Figure("in one window", most)]
