"""A client that costs little: it sends prepared bytes over open connections, and notes status and time of each answer.

At a rate, a request counts from the moment when it was due: a slow answer delays no later request, and hides none.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from benchmarks.http.stage import Stage

ANSWERS_S = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)

Make = Callable[[int], bytes]


@dataclass
class Load:
    """The requests that were sent. `failed` counts answers with another status than the one that was due."""

    ms: list[float] = field(default_factory=list)
    failed: int = 0
    took_s: float = 0.0
    bodies: list[bytes] = field(default_factory=list)


def request(stage: Stage, method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """The bytes of a request."""
    data = b"" if body is None else orjson.dumps(body)
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{stage.port}",
        f"Authorization: Bearer {stage.key}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


class Connection(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._ends = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._ends:
            head = self._data.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(self._data, 0, head)
            self._ends = head + 4 + (int(length[1]) if length else 0)
        if len(self._data) >= self._ends and self._answer is not None and not self._answer.done():
            self._answer.set_result((int(self._data[9:12]), self._data.partition(b"\r\n\r\n")[2]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the connection ended before its answer"))

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent; the server closes a connection that is idle for some seconds."""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, data: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._data, self._ends = b"", 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        async with asyncio.timeout(ANSWERS_S):
            return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(stage: Stage) -> Connection:
    """A new connection."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", stage.port)
    return connection


async def at_rate(stage: Stage, make: Make, status: int, rate: float, seconds: float) -> Load:
    """Send `rate` requests a second, evenly."""
    load, free, sending = Load(), [await connect(stage)], set[asyncio.Task[None]]()
    began = time.perf_counter()

    async def send(number: int, due: float) -> None:
        while free and not free[-1].is_open:
            free.pop()
        connection = free.pop() if free else await connect(stage)
        await _noted(load, connection, make(number), status, due)
        free.append(connection)

    for number in range(round(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(send(number, due))
        sending.add(task)
        task.add_done_callback(sending.discard)
    if sending:
        await asyncio.wait(set(sending))
    load.took_s = time.perf_counter() - began
    for connection in free:
        connection.close()
    return load


async def at_most(stage: Stage, make: Make, status: int, connections: int, seconds: float) -> Load:
    """Send as fast as answers come, over so many connections."""
    load, numbers = Load(), iter(range(10**9))
    opened = [await connect(stage) for _ in range(connections)]
    began = time.perf_counter()

    async def send(connection: Connection) -> None:
        while (now := time.perf_counter()) < began + seconds:
            await _noted(load, connection, make(next(numbers)), status, now)

    await asyncio.gather(*map(send, opened))
    load.took_s = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return load


async def at_once(stage: Stage, requests: list[bytes], status: int) -> Load:
    """Send all requests together, each over a connection of its own that is open before."""
    load = Load()
    opened = [await connect(stage) for _ in requests]
    began = time.perf_counter()
    pairs = zip(opened, requests, strict=True)
    await asyncio.gather(*(_noted(load, connection, data, status, began) for connection, data in pairs))
    load.took_s = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return load


async def _noted(load: Load, connection: Connection, data: bytes, status: int, since: float) -> None:
    try:
        got, body = await connection.send(data)
    except (OSError, TimeoutError):
        load.failed += 1
        return
    load.ms.append(1000 * (time.perf_counter() - since))
    load.failed += got != status
    load.bodies.append(body)
