"""A TCP proxy in front of a server: it cuts connections when it is told to, or after a silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

PIECE_BYTES = 64 * 1024


class Proxy:
    """`async with Proxy(port) as proxy` forwards `proxy.url` to that port of this machine; it may change meanwhile.

    A connection on which no byte comes from the server for `silence_s` is cut; None: never.
    """

    def __init__(self, port: int = 0, *, silence_s: float | None = None) -> None:
        self.port = port
        self._silence_s = silence_s
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.cuts = 0
        self.answering = asyncio.Event()  # a byte of an answer has gone to a client

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Cut every connection; later ones are forwarded."""
        for writer in self._open:
            self.cuts += 1
            writer.transport.abort()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.add(writer)
        sending = asyncio.create_task(_copy(reader, back, reader.read))
        try:
            await _copy(there, writer, self._heard(there))
        finally:
            sending.cancel()
            self._open.discard(writer)
            back.transport.abort()
            writer.close()

    def _heard(self, there: asyncio.StreamReader) -> Callable[[int], Awaitable[bytes]]:
        async def read(most: int) -> bytes:
            try:
                async with asyncio.timeout(self._silence_s):
                    piece = await there.read(most)
            except TimeoutError:
                self.cuts += 1
                return b""
            if piece:
                self.answering.set()
            return piece

        return read


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read: Callable[[int], Awaitable[bytes]]
) -> None:
    with suppress(OSError):
        while piece := await read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
