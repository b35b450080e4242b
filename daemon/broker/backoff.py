"""Draws the wait before another try: the one back-off of the daemon.

Waits grow exponentially up to a bound. A part of each is random, so that replicas do not come back together.
"""

from __future__ import annotations

import random

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
_MOST_DOUBLINGS = 64  # beyond every bound, and still a float


def pause_s(failures: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """Seconds to wait after a failure with `failures` before it: in the upper half of a bound that doubles."""
    bound_s = _bound_s(failures, FIRST_PAUSE_S, longest_s)
    return random.uniform(bound_s / 2, bound_s)  # noqa: S311 - no secret


def full_jitter_s(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait for a provider: anything between 0 and a bound that doubles.

    AWS Architecture Blog, "Exponential Backoff And Jitter" (2015), measures why full jitter loads a server least.
    """
    return random.uniform(0, _bound_s(failures, first_s, longest_s))  # noqa: S311 - no secret


def _bound_s(failures: int, first_s: float, longest_s: float) -> float:
    return float(min(first_s * 2 ** min(failures, _MOST_DOUBLINGS), longest_s))
