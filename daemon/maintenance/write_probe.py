"""Checks every two seconds that Redis takes our writes: a server that refuses only writes looks alive.

An idle replica would not notice that, and a busy one only at the next step of an item. The probe writes the record of
the installation, so that it comes back after a loss of state. The newest start decides what it says (the retention, the
routes and quotas), and after a loss the first replica that writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from daemon.broker.loops import run_forever
from daemon.queue.messages import NewerSchemaError
from daemon.queue.queue import Queue
from daemon.settings.model import RetentionSettings
from pixmill.broker.errors import in_words, never_works

EVERY_S = 2.0


async def _nothing(_life: str) -> None:
    """Let a new life of the server pass."""


class WriteProbe:
    """Probes for one replica. `checked` is set if the schema suits us.

    `refused` is set if this Redis can never serve us: a newer version wrote the schema, or the configuration does not
    fit. The second is decided at the start alone; a cluster that changes later is waited for.
    """

    def __init__(self, queue: Queue, retention: RetentionSettings, configured: str = "{}") -> None:
        self._queue = queue
        self._retention = retention
        self._configured = configured
        self._starts = True  # until the first write
        self.on_life: Callable[[str], Awaitable[None]] = _nothing  # gets the life of the server at each write
        self.trouble: str | None = None  # a sentence for people; None while Redis takes writes
        self.checked = asyncio.Event()
        self.refused = asyncio.Event()

    async def run(self) -> None:
        await run_forever("write probe", self._step)

    async def _step(self) -> None:
        await self.write()
        await asyncio.sleep(EVERY_S)

    async def write(self) -> None:
        """Write once. Raises the errors of the client; `trouble` then explains them."""
        kept = self._retention
        try:
            # Check also while Redis has no memory for a write: the other parts may start, and report that they wait.
            if not self.checked.is_set():
                await self._queue.check_schema()
                self.checked.set()
            life = await self._queue.install(
                records_s=kept.records,
                failed_s=kept.failed_records,
                starts=self._starts,
                configured=self._configured,
            )
            self._starts = False
            await self.on_life(life)
        except NewerSchemaError as error:
            self.trouble = str(error)
            self.refused.set()
        except Exception as error:
            self.trouble = in_words(error)
            if self._starts and never_works(error):
                self.refused.set()
            raise
        else:
            self.trouble = None
