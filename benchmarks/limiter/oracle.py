"""Arithmetic of the limiter benchmark: the best possible sender, and the figures of a ledger. Pure."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

from benchmarks.limiter.provider import Rule


def greedy_slots(rules: Sequence[Rule], jobs: Sequence[tuple[int, float]]) -> list[float]:
    """The earliest slot of each `(n, service_s)` job, taken in order, under all rules at once, without delays.

    A job never displaces one before it in the list, but may start before it. Rules of all models only; seconds
    from the start of an idle account.
    """
    taken: list[tuple[float, int, float]] = []  # slot, n, end
    slots = []
    for n, service_s in jobs:
        candidates = [0.0, *(end for _, _, end in taken)]
        candidates += [at + rule.window_s for rule in rules if rule.window_s for at, _, _ in taken]
        slot = next(at for at in sorted(set(candidates)) if _fits(rules, taken, at, n, service_s))
        insort(taken, (slot, n, slot + service_s))
        slots.append(slot)
    return slots


def _fits(
    rules: Sequence[Rule], taken: list[tuple[float, int, float]], at: float, n: int, service_s: float
) -> bool:
    for rule in rules:
        if rule.window_s is None:
            if not _fits_in_flight(rule.count, taken, at, at + service_s):
                return False
        elif not _fits_window(rule, taken, at, n):
            return False
    return True


def _fits_window(rule: Rule, taken: list[tuple[float, int, float]], at: float, n: int) -> bool:
    """No half-open window that contains `at` holds too much."""
    window_s = rule.window_s or 0.0
    costs = [(t, k if rule.unit == "images" else 1) for t, k, _ in taken if at - window_s < t < at + window_s]
    cost = n if rule.unit == "images" else 1
    starts = [t for t, _ in costs if t <= at] + [at]
    return all(
        sum(c for t, c in costs if start <= t < start + window_s) + cost <= rule.count for start in starts
    )


def _fits_in_flight(count: int, taken: list[tuple[float, int, float]], begin: float, end: float) -> bool:
    others = [(a, b) for a, _, b in taken if a < end and b > begin]
    moments = [begin, *(a for a, _ in others if a > begin)]
    return all(sum(a <= moment < b for a, b in others) < count for moment in moments)


def most_in_window(arrivals: Iterable[tuple[float, int]], window_s: float) -> int:
    """The largest sum of costs of `(time, cost)` arrivals in any half-open window."""
    ordered = sorted(arrivals)
    most = inside = first = 0
    for at_s, cost in ordered:
        inside += cost
        while ordered[first][0] + window_s <= at_s:
            inside -= ordered[first][1]
            first += 1
        most = max(most, inside)
    return most


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """The most `(begin, end)` spans that overlap at one moment; an end makes room for a begin at its moment."""
    ends: list[float] = []
    most = 0
    for begin, end in sorted(spans):
        while ends and ends[0] <= begin:
            heapq.heappop(ends)
        heapq.heappush(ends, end)
        most = max(most, len(ends))
    return most


def most_admissible(count: int, window_s: float, duration_s: float) -> int:
    """How many calls a sliding window lets into `duration_s` seconds from an idle start (the end excluded)."""
    full, rest = divmod(round(duration_s * 1e6), round(window_s * 1e6))
    return count * (full + (1 if rest else 0))


def steady_rate(times: Sequence[float], count: int, window_s: float) -> float | None:
    """The share of `count` that a window used: the mean of `window_s` over the time from a call to the
    `count`-th after it. None for too few calls.
    """
    ordered = sorted(times)
    spans = [later - sooner for sooner, later in zip(ordered, ordered[count:], strict=False)]
    return window_s * len(spans) / sum(spans) if spans else None


def between(times: Sequence[float], begin: float, end: float) -> int:
    """How many of the ascending times are in [begin, end)."""
    return bisect_left(times, end) - bisect_left(times, begin)


def last_before(times: Sequence[float], end: float) -> float | None:
    """The latest of the ascending times that is not after `end`."""
    index = bisect_right(times, end)
    return times[index - 1] if index else None
