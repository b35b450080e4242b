"""How a part's endless loop survives: a fault is told once, waited out with jitter, and the loop goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog
from redis.exceptions import RedisError

from daemon.redis_faults import CONNECTION_FAULTS, in_words, passes
from limiter.steps import finished

__all__ = ["CONNECTION_FAULTS", "pause_s", "run_forever", "uninterrupted", "until_answered"]

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


async def run_forever(
    name: str,
    step: Callable[[], Awaitable[None]],
    *,
    until: Callable[[], bool] = lambda: False,
    longest_pause_s: float = LONGEST_PAUSE_S,
) -> None:
    """Call `step` until cancelled, or until `until` is true after a step.

    Redis being away, or a bug, is logged at its first and last failure; the pause between failures grows up to
    `longest_pause_s`.
    """
    failures = 0
    while not until():
        _still_wanted()
        try:
            await step()
        except asyncio.CancelledError:
            raise
        except RedisError as error:
            if failures == 0:
                log.warning("redis does not serve us; waiting", part=name, error=in_words(error))
        except Exception:
            # One bad entry or one bug must not stop the part; it is loud, and the loop is paced below.
            log.exception("unexpected error; the part goes on", part=name)
        else:
            if failures:
                log.info("works again", part=name, failures=failures)
            failures = 0
            continue
        await asyncio.sleep(pause_s(failures, longest_pause_s))
        failures += 1


async def uninterrupted(
    step: Coroutine[Any, Any, T], *, undo: Callable[[T], Awaitable[None]] | None = None
) -> T:
    """Run `step` to its end although the caller is cancelled meanwhile; the cancellation comes after it.

    For steps whose half would leave something behind that only a lease's end tidies up. `undo` takes back the
    result that a cancelled caller never gets.
    """
    task = asyncio.ensure_future(step)
    try:
        return await finished(task)
    except asyncio.CancelledError:
        if undo is not None and not task.cancelled() and task.exception() is None:
            await undo(task.result())
        raise


async def until_answered(name: str, call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call that may safely be made twice until the server has carried it out.

    Also while the server answers and refuses for a reason that passes, such as full memory.
    """
    failures = 0
    while True:
        _still_wanted()
        try:
            return await call()
        except Exception as error:
            if not passes(error):
                raise
            if failures == 0:
                log.warning("redis does not serve us; asking again", call=name, error=in_words(error))
            await asyncio.sleep(pause_s(failures))
            failures += 1


def _still_wanted() -> None:
    """End a task that was cancelled in a step which did not notice: `asyncio.wait_for`, which redis-py uses, can
    swallow a cancellation until Python 3.12 (python/cpython#86296)."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def pause_s(failures: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """Jitter over half of an exponential bound, so that replicas do not come back together."""
    bound = min(longest_s, FIRST_PAUSE_S * 2 ** min(failures, 20))
    return random.uniform(bound / 2, bound)  # noqa: S311 - spreads load, protects nothing
