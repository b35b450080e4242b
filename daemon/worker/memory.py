"""Bounds the memory that large answers take, from their unpacking until their pictures are stored.

A provider's answer of 1 MB may unpack to 96 MB, and many may come at a time.
"""

from __future__ import annotations

import asyncio

import structlog

from daemon.worker.run import Run
from providers.http.client import MAX_ANSWER_BYTES

log = structlog.get_logger(__name__)

# Without any release for this long the holders wait for the store. A paid answer then counts more than memory.
STUCK_S = 10.0


class AnswerMemory:
    """The budget of one replica, in bytes of unpacked answers. The largest answer fits in whole."""

    def __init__(self, size: int = MAX_ANSWER_BYTES, *, stuck_s: float = STUCK_S) -> None:
        self._size = self._free = size
        self._stuck_s = stuck_s
        self._line = asyncio.Lock()  # first come, first served: a large answer is not overtaken for ever
        self._released = asyncio.Event()

    async def take(self, run: Run, size: int) -> None:
        """Wait until `size` bytes are free, and hold them for the run; goes on at last if nothing becomes free."""
        size = min(size, self._size)
        async with self._line:
            while self._free < size:
                self._released.clear()
                try:
                    async with asyncio.timeout(self._stuck_s):
                        await self._released.wait()
                except TimeoutError:
                    log.warning("large answers wait in memory; reading one more", item=run.item.uid)
                    break
            self._free -= size
            run.answer_bytes += size

    def release(self, run: Run) -> None:
        """Free what the run holds."""
        self._free += run.answer_bytes
        run.answer_bytes = 0
        self._released.set()
