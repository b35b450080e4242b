"""Measures how unevenly calls arrive after their slots, so that guards need not be guessed.

A provider counts arrivals. Two calls keep their distance except for the difference of their delays: event loop,
reply of Redis, way to the provider. A window's guard must cover the spread of those delays.
"""

from __future__ import annotations

from collections import deque
from typing import Final

SAMPLE: Final = 4096
# Fewer calls do not show the tail, so the guard stays as it is without a measurement.
ENOUGH: Final = 256

_LARGEST_US: Final = 60_000_000


class Lag:
    """The delays of one replica's latest SAMPLE calls.

    Replicas share one whole number each, `spread_us`; the largest of them sizes the guard for all.
    """

    __slots__ = ("_delays_us",)

    def __init__(self) -> None:
        self._delays_us: deque[int] = deque(maxlen=SAMPLE)

    def observe(self, lag_us: int, rtt_us: int = 0) -> None:
        """Note that a call left `lag_us` after its slot (below 0: before it); its way counts as half of `rtt_us`."""
        self._delays_us.append(lag_us + rtt_us // 2)

    @property
    def spread_us(self) -> int | None:
        """The distance from the 0.1 % to the 99.9 % quantile, or None before ENOUGH calls. It sorts: call it rarely."""
        if len(self._delays_us) < ENOUGH:
            return None
        ordered = sorted(self._delays_us)
        tail = len(ordered) // 1000
        spread = ordered[-1 - tail] - ordered[tail]
        return min(_LARGEST_US, spread)
