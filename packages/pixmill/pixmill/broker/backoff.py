"""Draws the wait before another try: the one back-off of the daemon, made of tenacity's waits.

Waits grow exponentially up to a bound. A part of each is random, so that replicas do not come back together. Tenacity
is imported at the first failure, since commands that meet none start sooner. A worker has it from its start: its
downloads need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenacity.wait import wait_base

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0


def pause_s(failures: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """Seconds to wait after a failure with `failures` before it: in the upper half of a bound that doubles."""
    from tenacity import wait_exponential, wait_random_exponential

    first_s, longest_s = FIRST_PAUSE_S / 2, longest_s / 2
    half = wait_exponential(multiplier=first_s, max=longest_s)
    return _drawn_s(half + wait_random_exponential(multiplier=first_s, max=longest_s), failures)


def full_jitter_s(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait for another service: anything between 0 and a bound that doubles.

    AWS Architecture Blog, "Exponential Backoff And Jitter" (2015), measures why full jitter loads a server least.
    """
    from tenacity import wait_random_exponential

    return _drawn_s(wait_random_exponential(multiplier=first_s, max=longest_s), failures)


def _drawn_s(wait: wait_base, failures: int) -> float:
    from tenacity import AsyncRetrying, RetryCallState

    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = failures + 1
    return float(wait(state))
