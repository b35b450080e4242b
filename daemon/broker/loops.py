"""How a part's endless loop survives: a fault is logged once and waited out with jitter, and the loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from daemon.broker.backoff import LONGEST_PAUSE_S, check_cancelled, pause_s, until_it_works
from daemon.broker.errors import in_words, passes

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

    An outage of Redis, or a bug, is logged at its first and last failure. The pause between failures grows up to
    `longest_pause_s`.
    """
    failures = 0
    while not until():
        check_cancelled()
        try:
            await step()
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

    The call is also repeated while the server replies and refuses for a reason that passes, such as full memory.
    """

    def note(error: Exception, failures: int) -> None:
        if failures == 0:
            log.warning("redis does not serve us; trying again", call=name, error=in_words(error))

    return await until_it_works(call, passes=passes, note=note)
