"""Starts and stops the parts of a process, from one ordered list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import structlog

log = structlog.get_logger(__name__)

CANCEL_AGAIN_S = 0.5


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """`run` works until it is cancelled; None for a part that only has a `finish`.

    `finish` is called before the cancellation, and ends the work under way. A part with `at_once` starts before `ready`
    is set.
    """

    name: str
    run: Callable[[], Coroutine[Any, Any, None]] | None
    finish: Callable[[], Awaitable[object]] = _nothing
    at_once: bool = False


class Parts:
    """Starts stages of parts in order and stops them in reverse order; the parts of one stage stop together.

    The parts run once `ready` is set. `stop` works without a start, after a failed start, and twice.
    """

    def __init__(self, stages: Sequence[Sequence[Part]], ready: asyncio.Event) -> None:
        self._stages = list(stages)
        self._ready = ready
        self._tasks: dict[Part, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Start every part, without waiting."""
        for part in chain(*self._stages):
            if part.run is not None:
                self._tasks[part] = asyncio.create_task(self._run(part.run, part.at_once), name=part.name)

    async def stop(self) -> None:
        """Return when every part has ended."""
        while self._stages:
            await asyncio.gather(*map(self._stop, self._stages.pop()))

    async def _run(self, run: Callable[[], Coroutine[Any, Any, None]], at_once: bool) -> None:
        if not at_once:
            await self._ready.wait()
        await run()

    async def _stop(self, part: Part) -> None:
        try:
            if part.run is None or self._ready.is_set():
                await part.finish()
        except Exception:
            # A bug in one part must not keep the others, and the heartbeat last, from their end.
            log.exception("a part could not finish; it is cancelled", part=part.name)
        task = self._tasks.pop(part, None)
        while task is not None and not task.done():
            task.cancel()
            # Cancel repeatedly: a library may swallow a cancellation.
            await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
