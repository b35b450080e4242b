"""How long to wait before another try: the one back-off of the daemon, drawn with tenacity's waits.

Waits grow exponentially up to a bound, and a part of each is left to chance, so that replicas do not come back
together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, wait_exponential, wait_random_exponential
from tenacity.wait import wait_base

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


def pause_s(failures: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """Seconds to wait for a server after so many failures before this one: the upper half of a bound that doubles."""
    first_s, longest_s = FIRST_PAUSE_S / 2, longest_s / 2
    half = wait_exponential(multiplier=first_s, max=longest_s)
    return _drawn_s(half + wait_random_exponential(multiplier=first_s, max=longest_s), failures)


def full_jitter_s(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait for a provider: anything between 0 and a bound that doubles.

    AWS Architecture Blog, "Exponential Backoff And Jitter" (2015), measures why full jitter loads a server least.
    """
    return _drawn_s(wait_random_exponential(multiplier=first_s, max=longest_s), failures)


async def until_it_works(
    call: Callable[[], Awaitable[T]],
    *,
    passes: Callable[[Exception], bool],
    note: Callable[[Exception, int], None],
    sleep: Callable[[float], Awaitable[None]] | None = None,
) -> T:
    """Repeat a call that may safely be made twice while its error `passes`; raises any other error.

    `note` gets each such error and how many there were before it.
    """
    failures = 0
    while True:
        check_cancelled()
        try:
            return await call()
        except Exception as error:
            if not passes(error):
                raise
            note(error, failures)
        await (sleep or asyncio.sleep)(pause_s(failures))
        failures += 1


def check_cancelled() -> None:
    """Raise CancelledError in a task that was cancelled in a step which did not notice.

    `asyncio.wait_for`, which redis-py uses, can swallow a cancellation until Python 3.12 (python/cpython#86296).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _drawn_s(wait: wait_base, failures: int) -> float:
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = failures + 1
    return float(wait(state))
