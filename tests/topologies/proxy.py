"""A wire to Redis that can be cut: in one direction, in both, or altogether."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK = 65536


class Wire:
    """A TCP proxy. Dropped bytes are gone: when the wire is healed, connections that lost some are closed."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._torn: set[asyncio.StreamWriter] = set()
        self._requests = self._replies = self._open = True
        self._fatal = b""
        self.connections = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def drop_requests(self) -> None:
        """Requests are lost."""
        self._requests = False

    def drop_replies(self) -> None:
        """Requests arrive and are carried out; their replies are lost."""
        self._replies = False

    def drop_replies_from(self, mark: bytes) -> None:
        """Drop replies from the next request on that contains `mark`."""
        self._fatal = mark

    @property
    def drops_replies(self) -> bool:
        return not self._replies

    def cut(self) -> None:
        """Every connection breaks, and a new one is closed at once."""
        self._open = False
        self._end(self._writers)

    def heal(self) -> None:
        """The wire is whole again."""
        self._requests = self._replies = self._open = True
        self._end(self._torn)

    def _end(self, writers: set[asyncio.StreamWriter]) -> None:
        for writer in list(writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self._open:
            writer.transport.abort()
            return
        try:
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, to_redis}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, to_redis, pair, requests=True))
                group.create_task(self._pass(from_redis, writer, pair, requests=False))
        finally:
            self._end(pair)
            self._writers -= pair
            self._torn -= pair

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: set[asyncio.StreamWriter],
        *,
        requests: bool,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if requests and self._fatal and self._fatal in data:
                    self._fatal, self._replies = b"", False
                if self._requests if requests else self._replies:
                    writer.write(data)
                    await writer.drain()
                else:
                    self._torn |= pair
        self._end(pair)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._end(self._writers)


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """A whole wire to the server on that port."""
    wire = Wire(port)
    await wire.start()
    try:
        yield wire
    finally:
        await wire.close()
