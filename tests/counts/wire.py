"""A server in front of the server: it passes requests and replies on, and counts them.

With `scripts` it runs the scripts itself, where each of their lines can be watched. Its users notice no difference.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

import hiredis

from tests.counts.sources import source_of
from tests.counts.watched_lua import WatchedScripts, packed

CHUNK: Final = 1 << 16
READ: Final = "XREADGROUP"  # the blocking one; scripts have their own
# These belong to a connection or to the passing of time, and to no item.
NOT_OF_ITEMS: Final = frozenset({"HELLO", "CLIENT", "SELECT", "PING", "SUBSCRIBE", "XAUTOCLAIM"})
_MORE: Final = object()


@dataclass(slots=True)
class Tally:
    """The traffic so far. A round trip is a request, or a pipeline of them, and its replies."""

    requests: Counter[str] = field(default_factory=Counter)  # scripts by their names
    round_trips: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Wire:
    """An async context manager; `url` leads to it. `tally` is what has passed since it was set anew."""

    def __init__(self, port: int, scripts: WatchedScripts | None = None) -> None:
        self.port = port  # of the server
        self.scripts = scripts
        self.tally = Tally()
        self.passed = 0  # chunks, to see whether the wire is silent
        self.failure: BaseException | None = None  # of a script, which its client takes for an outage
        self.names: dict[bytes, str] = {}  # of scripts, by hash
        self._links: list[_Link] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    @property
    def open(self) -> list[str]:
        """The requests without a reply so far."""
        return [name for link in self._links for name in link.open]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
        link = _Link(self, writer, server_writer)
        self._links.append(link)
        both = (link.pass_requests(reader), link.pass_replies(server_reader))
        tasks = [asyncio.create_task(each) for each in both]
        self._tasks.update(tasks)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self.failure = self.failure or (None if task.cancelled() else task.exception())
        self._links.remove(link)
        for each in (writer, server_writer):
            each.close()


class _Link:
    """One connection of a client, and the one behind it."""

    def __init__(self, wire: Wire, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.open: deque[str] = deque()
        self._wire = wire
        self._client = client
        self._server = server
        self._requests = hiredis.Reader(notEnoughData=_MORE)
        self._replies = hiredis.Reader(notEnoughData=_MORE)

    async def pass_requests(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(CHUNK):
            self._wire.passed += 1
            for words in _values(self._requests, chunk):
                await self._pass_request(words)

    async def _pass_request(self, words: list[bytes]) -> None:
        request = packed(words)
        name = self._name(words)
        self._count_request(name, len(request))
        if name.islower() and self._wire.scripts is not None:
            while self.open:  # replies come in the order of their requests
                await asyncio.sleep(0)
            self._reply(self._wire.scripts.evaluate(words), name)
            return
        self.open.append(name)
        self._server.write(request)

    async def pass_replies(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(CHUNK):
            self._wire.passed += 1
            self._reply(chunk, self.open[0] if self.open else "")
            for _ in _values(self._replies, chunk):
                with suppress(IndexError):  # a message of the bell replies to nothing
                    self.open.popleft()

    def _reply(self, chunk: bytes, name: str) -> None:
        if name not in NOT_OF_ITEMS:
            self._wire.tally.bytes_received += len(chunk)
        self._client.write(chunk)

    def _count_request(self, name: str, size: int) -> None:
        if name in NOT_OF_ITEMS:
            return
        tally = self._wire.tally
        tally.requests[name] += 1
        tally.round_trips += not self.open
        tally.bytes_sent += size

    def _name(self, words: list[bytes]) -> str:
        """A command in capitals, or the name of a script, in small letters."""
        command, names = words[0].upper().decode(), self._wire.names
        if command == "EVAL":
            sha = hashlib.sha1(words[1]).hexdigest().encode()
            names[sha] = source_of(words[1].decode()).name
            return names[sha]
        return names.get(words[1], "unknown") if command == "EVALSHA" else command


def _values(reader: hiredis.Reader, chunk: bytes) -> Iterator[Any]:
    """The whole values that have come with this chunk."""
    reader.feed(chunk)
    while (value := reader.gets()) is not _MORE:
        yield value
