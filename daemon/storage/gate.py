"""Whether pictures can be stored at all: while they cannot, nothing new is bought.

The first failure of the object store closes the gate, and a probe write as large as what failed opens it again. What
is paid for already waits in memory and goes on trying; when its replica has to stop, it is told to give up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from daemon.broker.errors import pause_s
from daemon.broker.loops import run_forever
from daemon.storage.object_store import ResultStore, StorageError

log = structlog.get_logger(__name__)

T = TypeVar("T")

LAST_TRY_S = 1.0
UNTRIED = "it has not been tried yet"


class NotStored(Exception):  # noqa: N818 - names what became of a picture
    """A picture that was made could not be stored in time; `why` is the store's last sentence."""

    def __init__(self, why: str, waited_s: float) -> None:
        super().__init__(f"The picture could not be stored for {waited_s:.0f} s ({why})")
        self.why = why
        self.waited_s = waited_s


class StorageGate:
    """One a replica, shared by those who store and those who buy. It is closed until the first probe has succeeded."""

    def __init__(
        self,
        store: ResultStore,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._sleep = sleep
        self._on_open = on_open
        self.why: str | None = UNTRIED  # it is closed, in the store's words; None: it is open
        self._failures = 0  # of probes in a row
        self._size = 0  # bytes of the largest object that failed
        self._closed = asyncio.Event()
        self._closed.set()
        self._opened = asyncio.Event()
        self._leaving = asyncio.Event()
        self._waiting = 0

    @property
    def closed(self) -> bool:
        return self.why is not None

    def failed(self, error: StorageError, size: int = 0) -> None:
        """The store has failed, with an object of `size` bytes: nothing more is bought until a probe succeeds."""
        if not self.closed:
            log.warning("the object store fails; nothing new is claimed until it works", error=str(error))
        self.why = str(error)
        self._size = max(self._size, size)
        self._opened.clear()
        self._closed.set()

    async def wait_open(self, timeout_s: float) -> None:
        """Until it is open, or `timeout_s` has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()

    async def run(self) -> None:
        """Probe the store while the gate is closed, for ever."""
        await run_forever("storage gate", self._step)

    async def _step(self) -> None:
        await self._closed.wait()
        try:
            await self._store.check(self._size)
        except StorageError as error:
            if self.why == UNTRIED:
                log.warning("the object store takes no pictures; nothing is claimed", error=str(error))
            self.why = str(error)
            await self._sleep(pause_s(self._failures))
            self._failures += 1
        else:
            if self.why != UNTRIED:
                log.info("the object store works again", failures=self._failures)
            self._open()

    def _open(self) -> None:
        self.why, self._size, self._failures = None, 0, 0
        self._closed.clear()
        self._opened.set()
        self._on_open()

    async def storing(self, step: Coroutine[Any, Any, T], *, patience_s: float | None) -> T:
        """What `step` returns, which tries until the store answers.

        Raises NotStored after `patience_s` (None: never), or when the replica has to stop (`give_up`).
        """
        began = time.monotonic()
        task = asyncio.ensure_future(step)
        leaving = asyncio.ensure_future(self._leaving.wait())
        self._waiting += 1
        try:
            await asyncio.wait((task, leaving), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and leaving.done():
                # What comes while the replica stops has this long: the store may be well by now.
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
        """End every wait for the store with NotStored; whether there was any."""
        self._leaving.set()
        return self._waiting > 0
