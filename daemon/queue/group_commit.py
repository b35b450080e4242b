"""Group commit: calls that arrive while another one is on the wire share the next round trip.

A lone caller waits no longer than without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 64  # items a call; keeps one script well below a millisecond or two


class GroupCommit(Generic[T, R]):
    """Turns `send(items) -> results` (same order, same length) into `await submit(item) -> result`.

    An error of `send` reaches every caller of that round. Cancelling one caller does not stop the round.
    """

    def __init__(self, send: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, most: int = MOST) -> None:
        self._send = send
        self._most = most
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Send one item with the next round; returns its result."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._run(), name="group commit")
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                round_, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._send_round(round_)
        finally:
            self._sender = None

    async def _send_round(self, round_: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._send([item for item, _ in round_])
        except BaseException as error:
            for _, future in round_:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), result in zip(round_, results, strict=True):
            if not future.done():
                future.set_result(result)
