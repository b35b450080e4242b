"""Ends a process at a signal: waits for it, and cancels a start that the signal overtakes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

# `timeout` and many supervisors signal a process and then its group: a repeat this soon is the same signal.
SAME_SIGNAL_S = 1.0

T = TypeVar("T")


async def until_signal(on_leave: Callable[[], None] = lambda: None) -> None:
    """Wait for SIGTERM, SIGINT or SIGHUP. A second signal calls `on_leave` and ends the process at once.

    Repeats within SAME_SIGNAL_S of the first one are ignored. SIGHUP, the end of the terminal, begins a stop and never
    hurries one; a process that was started with SIGHUP ignored (`nohup`) stays.
    """
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    signalled_at = 0.0

    def note() -> None:
        nonlocal signalled_at
        if not signalled.is_set():
            signalled_at = loop.time()
            signalled.set()
        elif loop.time() - signalled_at >= SAME_SIGNAL_S:
            log.warning("second signal: leaving at once; another replica takes over the running items")
            on_leave()
            os._exit(130)

    def note_hangup() -> None:
        if not signalled.is_set():
            note()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, note)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, note_hangup)
    await signalled.wait()


async def unless_leaving(leaving: asyncio.Task[None], start: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `start`, or None when a signal came before its end and cancelled it."""
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
