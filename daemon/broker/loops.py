"""Keeps endless loops and single calls going through a fault, which is logged once and waited out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from redis.exceptions import RedisError

from pixmill.broker.backoff import LONGEST_PAUSE_S, pause_s
from pixmill.broker.errors import in_words, passes

log = structlog.get_logger(__name__)

T = TypeVar("T")

# A step that must not stand still while Redis is away waits so long for a report, which then goes on by itself.
PATIENCE_S = 1.0


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
    loop = object()
    try:
        await _run_forever(loop, name, step, until, longest_pause_s)
    finally:
        _waiting.pop(loop, None)


# The outage that each loop waits out. All parts of a process meet one outage, and one line of the log is enough. Two
# replicas in one process have parts of the same names, so a name is no key.
_waiting: dict[object, str] = {}


async def _run_forever(
    loop: object,
    name: str,
    step: Callable[[], Awaitable[None]],
    until: Callable[[], bool],
    longest_pause_s: float,
) -> None:
    failures = 0
    while not until():
        _check_cancelled()
        try:
            await step()
        except RedisError as error:
            if failures == 0:
                sentence = in_words(error)
                if sentence not in _waiting.values():
                    log.warning("redis does not serve us; waiting", part=name, error=sentence)
                _waiting[loop] = sentence
        except Exception:
            # One bad entry or one bug must not stop the part; it is loud, and the loop is paced below.
            log.exception("unexpected error; the part goes on", part=name)
        else:
            sentence = _waiting.pop(loop, "")
            if failures and sentence not in _waiting.values():
                log.info("works again", part=name, failures=failures)
            failures = 0
            continue
        await asyncio.sleep(pause_s(failures, longest_pause_s))
        failures += 1


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set, or after `timeout_s`.

    Not `asyncio.wait_for`: until Python 3.12 it can swallow a cancellation that comes together with the event.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


async def until_answered(name: str, call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call that may safely be made twice until the server has carried it out.

    The call is also repeated while the server replies and refuses for a reason that passes, such as full memory.
    """

    def note(error: Exception, failures: int) -> None:
        if failures == 0:
            log.warning("redis does not serve us; trying again", call=name, error=in_words(error))

    return await until_it_works(call, passes=passes, note=note)


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
        _check_cancelled()
        try:
            return await call()
        except Exception as error:
            if not passes(error):
                raise
            note(error, failures)
        await (sleep or asyncio.sleep)(pause_s(failures))
        failures += 1


class Reports:
    """Reports to Redis for which their callers wait for PATIENCE_S at most. A report that fails is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, name: str, step: Coroutine[Any, Any, object]) -> None:
        """Carry out `step`, beside the caller if it takes long. A cancelled caller does not stop it."""
        task = asyncio.create_task(self._logged(name, step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([task], timeout=PATIENCE_S)

    async def aclose(self) -> None:
        """Stop the reports that are still on their way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _logged(self, name: str, step: Coroutine[Any, Any, object]) -> None:
        try:
            await step
        except Exception:
            log.exception("a report failed", report=name)


def _check_cancelled() -> None:
    """Raise CancelledError if a step swallowed its cancellation, as a library may: the loop would never end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
