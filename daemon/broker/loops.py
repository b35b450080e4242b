"""How a part's endless loop survives: a fault is told once, waited out with jitter, and the loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from daemon.broker.errors import LONGEST_PAUSE_S, in_words, passes, pause_s

log = structlog.get_logger(__name__)

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
