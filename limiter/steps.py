"""Calls that end although their caller is cancelled: half of one would leave a charge that no process knows of.

The caller always receives its cancellation. A bare call of the client does not promise that: until Python 3.12 the
`wait_for` in it swallows a cancellation that comes together with the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(
    step: Coroutine[Any, Any, T], *, undo: Callable[[T], Awaitable[None]] | None = None
) -> T:
    """Run `step` to its end; a cancellation of the caller comes after it.

    `undo` takes back the result that a cancelled caller never gets.
    """
    task = asyncio.ensure_future(step)
    try:
        return await finished(task)
    except asyncio.CancelledError:
        if undo is not None and not task.cancelled() and task.exception() is None:
            await undo(task.result())
        raise


async def finished(task: asyncio.Task[T]) -> T:
    """The result of `task`, or, if the caller was cancelled, CancelledError once the task has ended."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:
            break
    if cancelled:
        with suppress(asyncio.CancelledError):
            task.exception()  # retrieved, so that asyncio does not report it as forgotten
        raise asyncio.CancelledError
    return task.result()
