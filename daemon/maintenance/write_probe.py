"""Whether Redis takes our writes, tried every two seconds: a server that refuses to write looks alive otherwise.

An idle replica would not notice it by its work, and a busy one only at the next step of an item.
"""

from __future__ import annotations

import asyncio

from daemon.broker.errors import in_words
from daemon.broker.loops import run_forever
from daemon.queue.queue import Queue

EVERY_S = 2.0


class WriteProbe:
    """One a replica."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.trouble: str | None = None  # a sentence for people; None while Redis takes writes

    async def run(self) -> None:
        await run_forever("write probe", self._step)

    async def _step(self) -> None:
        await self.write()
        await asyncio.sleep(EVERY_S)

    async def write(self) -> None:
        """Write once. Errors: whatever the client raises; `trouble` is its sentence then."""
        try:
            await self._queue.probe()
        except Exception as error:
            self.trouble = in_words(error)
            raise
        self.trouble = None
