"""Clients of an installation that is not there: its reads fail, or wait, as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pixmill
from pixmill.errors import UnavailableError

ADDRESS = "redis://127.0.0.1:1"  # nothing listens there
DONE = pixmill.Status("b1", "completed", {"total": 1, "succeeded": 1})


class Stub:
    """A transport. A watch yields one event, calls `on_wait`, and waits for ever; so does a status of "wait"."""

    def __init__(self, *faults: Exception, on_wait: Callable[[], object] = lambda: None) -> None:
        self.faults: list[Exception | None] = list(faults)  # of the next opening and reads, one each
        self.on_wait = on_wait
        self.opened = self.closed = self.left = 0

    async def open(self) -> None:
        await asyncio.sleep(0)
        self.opened += 1
        self._fail()

    async def close(self) -> None:
        self.closed += 1

    async def status(self, ident: str) -> pixmill.Status:
        self._fail()
        if ident == "wait":
            await self._wait()
        return DONE

    async def results(self, ident: str) -> list[pixmill.Result]:
        self._fail()
        return []

    async def watch(self, ident: str, after: str | None) -> AsyncIterator[pixmill.Event]:
        yield pixmill.Event("batch.finished", {}, "1-0")
        await self._wait()

    def _fail(self) -> None:
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault

    async def _wait(self) -> None:
        self.on_wait()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):  # the close of a connection takes a few turns of the loop
                await asyncio.sleep(0)
            self.left += 1


def sync_client(stub: Stub | None = None) -> pixmill.SyncClient:
    """A synchronous client over a stub."""
    client = pixmill.SyncClient(ADDRESS)
    client._run_on(async_client(stub))
    return client


def async_client(stub: Stub | None = None) -> pixmill.Client:
    """An asynchronous client over a stub."""
    client = pixmill.Client(ADDRESS)
    client._transport = cast("Any", stub or Stub())
    return client


UNAVAILABLE = UnavailableError("a deploy")
