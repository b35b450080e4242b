"""How unevenly calls arrive after their slots, measured, so that guards need not be guessed.

A provider counts arrivals. Two calls keep their distance except for the difference of their delays: event loop,
reply of Redis, way to the provider. The spread of those delays is what a window's guard has to cover.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from limiter.limits import guard_us

SAMPLE: Final = 4096
# With fewer the tail was not seen yet, and the guard is the one that is used without any measurement.
ENOUGH: Final = 256
LEAST_GUARD_US: Final = 5_000

_LARGEST_US: Final = 60_000_000
_RAISE: Final = 1.5
_MOST_RAISED: Final = 4.0


class Lag:
    """The delays of one replica's latest SAMPLE calls.

    Replicas share one whole number each, `spread_us`; the largest of them sizes the guard for all.
    """

    __slots__ = ("_delays_us", "_raised", "_raised_at", "_seen")

    def __init__(self) -> None:
        self._delays_us: deque[int] = deque(maxlen=SAMPLE)
        self._seen = 0
        self._raised = 1.0
        self._raised_at = 0

    def observe(self, lag_us: int, rtt_us: int = 0) -> None:
        """A call left `lag_us` after its slot (below 0: before it); its way there is taken as half of `rtt_us`."""
        self._delays_us.append(lag_us + rtt_us // 2)
        self._seen += 1

    def refused_in_order(self) -> None:
        """A 429 came although our books allowed the call and nobody else uses the quota: delays differ more.

        Widens the spread by half, up to fourfold, and fades while the next SAMPLE calls replace the sample.
        """
        self._raised = min(_MOST_RAISED, self._margin() * _RAISE)
        self._raised_at = self._seen

    @property
    def spread_us(self) -> int | None:
        """The distance from the 0.1 % to the 99.9 % quantile, or None before ENOUGH calls. Sorts: not for each call."""
        if len(self._delays_us) < ENOUGH:
            return None
        ordered = sorted(self._delays_us)
        tail = len(ordered) // 1000
        spread = ordered[-1 - tail] - ordered[tail]
        return min(_LARGEST_US, round(spread * self._margin()))

    def _margin(self) -> float:
        rest = 1 - (self._seen - self._raised_at) / SAMPLE
        return 1 + (self._raised - 1) * max(0.0, rest)


def measured_guard_us(period_us: int, spread_us: int | None) -> int:
    """The guard of a window for the largest spread of all replicas: at least 5 ms, at most 1 % of the period.

    More than a hundredth would cost more than the 99 % that a saturated quota is to reach, and is then better
    met by learning. None, nothing measured yet, is the guard of `limits.guard_us`.
    """
    if spread_us is None:
        return guard_us(period_us)
    return max(LEAST_GUARD_US, min(spread_us, period_us // 100))
