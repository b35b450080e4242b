"""Stops the buying of pictures while they cannot be stored.

The first failure of the object store, or a lack of this machine, closes the gate; a probe write as large as the failed
one opens it again. A paid picture waits in memory meanwhile, until its replica has to stop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from daemon.broker.loops import run_forever, until_it_works, wait_for_event
from daemon.queue.bell import Bell
from daemon.storage.object_store import ResultStore, StorageError
from providers.lack import lack_of

log = structlog.get_logger(__name__)

T = TypeVar("T")

LAST_TRY_S = 1.0
UNTRIED = "it has not been tried yet"


class NotStored(Exception):  # noqa: N818 - names the fate of a picture
    """A picture that was made could not be stored in time; the message ends with the store's last error."""

    def __init__(self, why: str, waited_s: float) -> None:
        super().__init__(f"The picture could not be stored for {waited_s:.0f} s ({why})")


class StorageGate:
    """One per replica, checked before pictures are bought or stored; closed until the first probe succeeds."""

    def __init__(
        self, store: ResultStore, bell: Bell, *, sleep: Callable[[float], Awaitable[None]] | None = None
    ) -> None:
        self._store = store
        self._bell = bell
        self._sleep = sleep
        self.why: str | None = UNTRIED  # why it is closed, in the store's words; None: it is open
        self._size = 0  # bytes of the largest object that failed
        self._closed = asyncio.Event()
        self._closed.set()
        self._opened = asyncio.Event()
        self._leaving = asyncio.Event()
        self._waiting = 0

    @property
    def closed(self) -> bool:
        return self.why is not None

    def failed(self, error: Exception, size: int = 0) -> None:
        """Close, since an object of `size` bytes could not be stored."""
        why = lack_of(error) or str(error)
        if not self.closed:
            log.warning("pictures cannot be stored; nothing new is claimed until they can", error=why)
        self.why = why
        self._size = max(self._size, size)
        self._opened.clear()
        self._closed.set()

    async def wait_open(self, timeout_s: float) -> None:
        """Wait until the gate is open, or `timeout_s` has passed."""
        await wait_for_event(self._opened, timeout_s)

    async def run(self) -> None:
        """Probe the store while the gate is closed, for ever."""
        await run_forever("storage gate", self._step)

    async def _step(self) -> None:
        await self._closed.wait()
        await until_it_works(
            lambda: self._store.check(self._size), passes=_fails, note=self._still_closed, sleep=self._sleep
        )
        if self.why != UNTRIED:
            log.info("the object store works again")
        self.why, self._size = None, 0
        self._closed.clear()
        self._opened.set()
        self._bell.ring_all()

    def _still_closed(self, error: Exception, _failures: int) -> None:
        if self.why == UNTRIED:
            log.warning("the object store takes no pictures; nothing is claimed", error=str(error))
        self.why = str(error)

    async def patiently(self, call: Callable[[], Awaitable[T]], size: int = 0) -> T:
        """Repeat `call` until the store answers and this machine lacks nothing; each failure closes the gate.

        `size`: the bytes that it writes.
        """

        def note(error: Exception, failures: int) -> None:
            self.failed(error, size)
            if failures == 0:
                log.warning("a picture waits to be stored", error=str(error))

        return await until_it_works(call, passes=_fails, note=note, sleep=self._sleep)

    async def storing(self, step: Coroutine[Any, Any, T], *, patience_s: float | None) -> T:
        """Return the result of `step`, which repeats until the store answers.

        Raises NotStored after `patience_s` (None: never), or when the replica has to stop (`give_up`).
        """
        began = time.monotonic()
        task = asyncio.ensure_future(step)
        leaving = asyncio.ensure_future(self._leaving.wait())
        self._waiting += 1
        try:
            await asyncio.wait((task, leaving), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and leaving.done():
                # A picture that is finished during the stop gets one last try: the store may work by now.
                await asyncio.wait((task,), timeout=LAST_TRY_S)
            if task.done():
                return task.result()
            raise NotStored(self.why or "it does not answer", time.monotonic() - began)
        finally:
            self._waiting -= 1
            for each in (task, leaving):
                each.cancel()
            await asyncio.wait((task, leaving))

    def give_up(self) -> bool:
        """End every wait for the store with NotStored; returns whether there was any."""
        self._leaving.set()
        return self._waiting > 0


def _fails(error: Exception) -> bool:
    return isinstance(error, StorageError) or lack_of(error) is not None
