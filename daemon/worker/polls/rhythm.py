"""When to poll a task: arithmetic on the durations of earlier tasks. Pure functions; all times are seconds.

A poll after the task's end leaves the task's place empty until then, and a poll before it finds nothing. So the next
poll is due at the age at which the place time that is expected to be lost is worth one poll. This is the best schedule
for a unit whose failure only a check finds (Barlow, Hunter and Proschan, "Optimum checking procedures", 1963).
docs/internals/polling.md has the arithmetic and the figures.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from math import inf, isfinite, log, prod
from typing import NamedTuple

FEWEST = 5  # durations, below which nothing is known
KEPT = 50  # newest durations of a route, model and size
EARLY_MOST = 3  # ends in a row that the first poll found: perhaps tasks have become faster
_UNLIKELY = 0.01  # a chance below which they have
VAGUE = 3.0  # a duration that is known only to this factor teaches nothing
LONGEST_S = 86_400.0  # a longer duration is no duration but a clock that was moved

SHORTEST_WAIT_S = 0.1  # between two polls of a task
LONGEST_WAIT_S = 60.0  # a moved clock, or tasks that became faster, must not silence a task
# The price of a poll, as a part of the mean duration: the place time that may be lost to save one poll.
URGENT, EASY = 0.0025, 0.02

_COLD_FIRST_S = 0.5
_COLD = {
    True: (0.1, 0.08),
    False: (0.5, 0.25),
}  # by whether it is urgent: shortest wait (s), growth with the age
_TAIL_GROWTH = 0.06  # beyond the durations that are known
_STEPS = 4  # points for each duration, so that few durations make a smooth distribution
_EARLIER = 0.8  # an end that the first poll found lies between this part of its age and its age


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
    def is_vague(self) -> bool:
        """Whether the two polls are so far apart that the time between them says little."""
        return not self.is_early and self.high_s > VAGUE * self.low_s

    @property
    def middle_s(self) -> float:
        low_s = _EARLIER * self.high_s if self.is_early else self.low_s
        return (low_s + self.high_s) / 2


class PollRule:
    """The ages at which a task is polled, from the ends of earlier tasks, newest first. Useless ends are left out."""

    def __init__(self, ends: Iterable[Seen] = ()) -> None:
        useful = [end for end in ends if end.is_sound and not end.is_vague]
        known = sorted(end.middle_s for end in _in_force(useful[:KEPT]))
        self.is_cold = len(known) < FEWEST
        self._mean_s = sum(known) / len(known) if known else 0.0
        self._points = [] if self.is_cold else _between(known)
        self._sums = [0.0, *accumulate(self._points)]

    def next_s(self, age_s: float, price: float = URGENT) -> float:
        """The age of the next poll of a task that still ran at `age_s` (0 before the first poll).

        `price` is what one poll is worth, as a part of the mean duration. The first poll is always urgent, since an end
        that it finds says only "earlier".
        """
        wait_s = self._due_s(age_s, price if age_s else URGENT) - age_s
        return age_s + min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, wait_s))

    def lost_s(self, ran_s: float, age_s: float) -> float:
        """The place time that is expected to be lost by the age `age_s` of a task that still ran at the age `ran_s`.

        Beyond the known durations a task that ran for some time ends before twice that time with a chance of one half.
        """
        first, last = bisect_right(self._points, ran_s), bisect_right(self._points, age_s)
        left = len(self._points) - first
        known_s = self._sum_s(first, last, age_s) / left if left and age_s > ran_s else 0.0
        since_s = max(ran_s, _COLD_FIRST_S)
        if left >= 2 * _STEPS or age_s <= since_s:
            return known_s
        return max(known_s, age_s - since_s - since_s * log(age_s / since_s))

    def _due_s(self, age_s: float, price: float) -> float:
        if self.is_cold:
            shortest_s, growth = _COLD[price <= URGENT]
            return age_s + max(shortest_s, growth * age_s) if age_s else _COLD_FIRST_S
        first = bisect_right(self._points, age_s)
        left = len(self._points) - first
        tail_s = age_s + _TAIL_GROWTH * age_s if age_s and left < 2 * _STEPS else inf
        return min(tail_s, self._worth(first, price * self._mean_s * left) if left else inf)

    def _worth(self, first: int, cost_s: float) -> float:
        """The t at which the sum of (t - s), over the points s before t from `first` on, reaches `cost_s`."""

        last = bisect_left(
            range(len(self._points)),
            cost_s,
            lo=first + 1,
            key=lambda last: self._sum_s(first, last, self._points[last]),
        )
        return (cost_s + self._sums[last] - self._sums[first]) / (last - first)

    def _sum_s(self, first: int, last: int, age_s: float) -> float:
        """The sum of (age_s - s) over the points s from number `first` to before `last`."""
        return (last - first) * age_s - (self._sums[last] - self._sums[first])


def _in_force(ends: Sequence[Seen]) -> Sequence[Seen]:
    """Without the ends up to the last time that tasks became faster: those are of slower tasks."""
    in_a_row = 0
    for index, end in enumerate(ends):
        in_a_row = in_a_row + 1 if end.is_early else 0
        first = index + 1 - EARLY_MOST
        if in_a_row >= EARLY_MOST and _are_faster(ends[first : index + 1], ends[index + 1 :]):
            return ends[:first]
    return ends


def _are_faster(early: Sequence[Seen], older: Sequence[Seen]) -> bool:
    """Whether the `early` ends are unlikely if tasks take as long as the `older` ones.

    Where polls are scarce, first polls come late. Then they find ends, and say nothing against the older ones.
    """
    chances = ((sum(seen.low_s < end.high_s for seen in older) + 1) / (len(older) + 2) for end in early)
    return prod(chances) < _UNLIKELY


def _between(known: Sequence[float]) -> list[float]:
    """Points between neighbouring durations; the first duration gets points below it."""
    return [
        low + (high - low) * (step + 0.5) / _STEPS
        for low, high in pairwise([0.9 * known[0], *known])
        for step in range(_STEPS)
    ]
