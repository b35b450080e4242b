"""Whether Redis takes our writes, tried every two seconds: a server that answers and refuses to write looks alive.

An idle replica would not notice that by its work, and a busy one only at the next step of an item. The write is the
replica's part of the installation's record, so that record comes back after a loss of state.
"""

from __future__ import annotations

import asyncio

from daemon.broker.errors import in_words
from daemon.broker.loops import run_forever
from daemon.queue.messages import NewerSchemaError
from daemon.queue.queue import Queue
from daemon.settings.model import RetentionSettings

EVERY_S = 2.0


class WriteProbe:
    """One a replica. `checked` is set when the schema suits us, `refused` when it is a newer version's."""

    def __init__(self, queue: Queue, retention: RetentionSettings) -> None:
        self._queue = queue
        self._retention = retention
        self.trouble: str | None = None  # a sentence for people; None while Redis takes writes
        self.checked = asyncio.Event()
        self.refused = asyncio.Event()

    async def run(self) -> None:
        await run_forever("write probe", self._step)

    async def _step(self) -> None:
        await self.write()
        await asyncio.sleep(EVERY_S)

    async def write(self) -> None:
        """Write once. Errors: whatever the client raises; `trouble` is its sentence then."""
        kept = self._retention
        try:
            # Also where Redis has no memory for a write: the parts then wait for that, and say so.
            if not self.checked.is_set():
                await self._queue.check_schema()
                self.checked.set()
            await self._queue.install(records_s=kept.records, failed_s=kept.failed_records)
        except NewerSchemaError as error:
            self.trouble = str(error)
            self.refused.set()
        except Exception as error:
            self.trouble = in_words(error)
            raise
        else:
            self.trouble = None
