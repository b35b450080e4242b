"""When to poll a task: arithmetic on the durations of earlier tasks. Pure functions; all times are seconds.

A poll after the task's end leaves the task's place empty until then, and a poll before it finds nothing. So the next
poll is due at the age at which the place time that is expected to be lost is worth one poll. This is the best schedule
for a unit whose failure only a check finds (Barlow, Hunter and Proschan, "Optimum checking procedures", 1963).
docs/polling.md has the arithmetic and the figures.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from math import isfinite
from typing import NamedTuple

FEWEST = 5  # durations, below which nothing is known
KEPT = 50  # newest durations of a route, model and size
EARLY_MOST = (
    3  # ends in a row that the first poll found: tasks have become faster, so the older durations are void
)
SHORTEST_S = 0.1  # between two polls of a task
LONGEST_S = 86_400.0  # a longer duration is no duration but a clock that was moved

# The price of a poll, as a part of the mean duration: the place time that may be lost to save one poll.
URGENT, EASY = 0.003, 0.02

_COLD_FIRST_S, _COLD_GROWTH = 0.5, 0.08
_TAIL_GROWTH = 0.06  # beyond the durations that are known
_STEPS = 4  # points for each duration, so that few durations make a smooth distribution
_EARLIER = (
    0.8  # an end that the first poll found was earlier; by so much at most, for lack of a poll before it
)


class Seen(NamedTuple):
    """An end as it was noticed: the task ran at the age `low_s` (0: no poll came before) and had ended at `high_s`."""

    low_s: float
    high_s: float

    @property
    def is_early(self) -> bool:
        return self.low_s == 0

    @property
    def is_sound(self) -> bool:
        """False for a duration that only a moved clock explains."""
        return isfinite(self.high_s) and 0 <= self.low_s < self.high_s <= LONGEST_S

    @property
    def middle_s(self) -> float:
        low_s = _EARLIER * self.high_s if self.is_early else self.low_s
        return (low_s + self.high_s) / 2


class PollRule:
    """The ages at which a task is polled, from the ends of earlier tasks, newest first. Unsound ends are left out."""

    def __init__(self, ends: Iterable[Seen] = ()) -> None:
        known = sorted(end.middle_s for end in _in_force([end for end in ends if end.is_sound][:KEPT]))
        self.is_cold = len(known) < FEWEST
        self._mean_s = sum(known) / len(known) if known else 0.0
        self._points = [] if self.is_cold else _between(known)
        self._sums = [0.0, *accumulate(self._points)]

    def next_s(self, age_s: float, price: float = URGENT) -> float:
        """The age of the next poll of a task that still ran at `age_s` (0 before the first poll).

        `price` is what one poll is worth, as a part of the mean duration.
        """
        if self.is_cold:
            return age_s + max(SHORTEST_S, _COLD_GROWTH * age_s) if age_s > 0 else _COLD_FIRST_S
        first = bisect_right(self._points, age_s)
        left = len(self._points) - first
        in_tail = left < 2 * _STEPS and age_s > 0
        longest_s = age_s + max(SHORTEST_S, _TAIL_GROWTH * age_s) if in_tail or not left else float("inf")
        if not left:
            return longest_s
        due_s = self._worth(first, price * self._mean_s * left)
        return min(max(due_s, age_s + SHORTEST_S), longest_s)

    def _worth(self, first: int, cost_s: float) -> float:
        """The t at which the sum of (t - s), over the points s before t from `first` on, reaches `cost_s`."""

        def lost_s(last: int) -> float:
            return (last - first) * self._points[last] - (self._sums[last] - self._sums[first])

        last = bisect_left(range(len(self._points)), cost_s, lo=first + 1, key=lost_s)
        return (cost_s + self._sums[last] - self._sums[first]) / (last - first)


def _in_force(ends: Sequence[Seen]) -> Sequence[Seen]:
    """Without the ends up to the last time that EARLY_MOST in a row were early: those are of slower tasks."""
    in_a_row = 0
    for index, end in enumerate(ends):
        in_a_row = in_a_row + 1 if end.is_early else 0
        if in_a_row == EARLY_MOST:
            return ends[: index + 1 - EARLY_MOST]
    return ends


def _between(known: Sequence[float]) -> list[float]:
    """Points between neighbouring durations; the first duration gets points below it."""
    return [
        low + (high - low) * (step + 0.5) / _STEPS
        for low, high in pairwise([0.9 * known[0], *known])
        for step in range(_STEPS)
    ]
