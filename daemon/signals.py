"""The signals that ask a process to leave: the first one is heard by who waits for it, a second one ends at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

# `timeout`, and many a supervisor, signal a process and then its group: what comes so soon is the same signal.
SAME_SIGNAL_S = 1.0

T = TypeVar("T")


async def until_signal(on_leave: Callable[[], None] = lambda: None) -> None:
    """Wait for SIGTERM or SIGINT. A second one ends the process at once, as impatient people expect, after `on_leave`.

    Repeats within SAME_SIGNAL_S of the first one are no impatience.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    asked_at = 0.0

    def hear() -> None:
        nonlocal asked_at
        if not asked.is_set():
            asked_at = loop.time()
            asked.set()
        elif loop.time() - asked_at >= SAME_SIGNAL_S:
            log.warning("second signal: leaving at once; another replica takes over what runs")
            on_leave()
            os._exit(130)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, hear)
    await asked.wait()


async def unless_leaving(leaving: asyncio.Task[None], start: Coroutine[Any, Any, T]) -> T | None:
    """What was started, or None when it was undone because somebody wants to leave before it is there."""
    starting = asyncio.create_task(start)
    try:
        await asyncio.wait((starting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            starting.cancel()
        return await starting
    except asyncio.CancelledError:
        if not leaving.done():
            raise
        return None
    finally:
        starting.cancel()
