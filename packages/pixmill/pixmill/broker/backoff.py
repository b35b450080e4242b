"""Draws the wait before another try: the one back-off of all parts, made of redis-py's.

Waits grow exponentially up to a bound. A part of each is random, so that replicas do not come back together.
"""

from __future__ import annotations

from redis.backoff import EqualJitterBackoff, FullJitterBackoff

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
_MOST_DOUBLINGS = 64  # far beyond any bound; a float has room for about a thousand


def pause_s(failures: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """Seconds to wait after a failure with `failures` before it: in the upper half of a bound that doubles."""
    return float(EqualJitterBackoff(longest_s, FIRST_PAUSE_S).compute(min(failures, _MOST_DOUBLINGS)))


def full_jitter_s(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait for another service: anything between 0 and a bound that doubles.

    AWS Architecture Blog, "Exponential Backoff And Jitter" (2015), measures why full jitter loads a server least.
    """
    return float(FullJitterBackoff(longest_s, first_s).compute(min(failures, _MOST_DOUBLINGS)))
