"""The memory of answers with whole pictures: one budget for all of them, for which they wait in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from daemon.gateway.answering.problems import Problem

MOST_BYTES: Final = 256 * 1024**2
WAIT_S: Final = 30.0
AGAIN_S: Final = 5
PART_BYTES: Final = 256 * 1024
SEND_S: Final = 600.0  # a reader that takes longer is cut off: it holds what others wait for


class Memory:
    """The budget of one process, in bytes. More than all of it is served alone."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = self._left = most_bytes
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def take(self, size: int) -> Callable[[], None]:
        """Take `size` bytes once they are there; returns what gives them back, once however often it is called.

        Raises Problem 503 after 30 s.
        """
        size = min(size, self._most)
        try:
            async with asyncio.timeout(WAIT_S), self._turn:
                while self._left < size:
                    self._freed.clear()
                    await self._freed.wait()
                self._left -= size
        except TimeoutError:
            sentence = "Other pictures are being sent; send the request again in a moment."
            raise Problem(503, "busy", sentence, retry_after_s=AGAIN_S) from None
        held = [size]

        def give_back() -> None:
            while held:
                self._left += held.pop()
                self._freed.set()

        return give_back

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """As `take`, for a block of code."""
        give_back = await self.take(size)
        try:
            yield
        finally:
            give_back()


class HeldResponse(Response):
    """A large answer. It is sent in parts, at the speed of its reader, and then gives its memory back."""

    def __init__(
        self, content: bytes, headers: Mapping[str, str], media_type: str, give_back: Callable[[], None]
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._give_back = give_back

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                for start in range(0, len(self.body), PART_BYTES):
                    part = self.body[start : start + PART_BYTES]
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._give_back()
