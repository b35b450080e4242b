"""Parts that a server sends at once: whole, in order with those of ASGI, and never to who cannot take them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from providers.http.asgi import AsgiServer
from providers.http.parts import SCOPE_WRITE, part_writer
from tests.daemon.harness import eventually

HEAD = {"type": "http.response.start", "status": 200, "headers": []}


class Stage:
    """An app whose answer stays open until the test ends it, and the function that it got."""

    def __init__(self) -> None:
        self.open, self.end = asyncio.Event(), asyncio.Event()
        self.write: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.write = scope["extensions"].get(SCOPE_WRITE)
        if self.write is not None:
            assert not self.write(b"before the head")
        await send(HEAD)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        self.open.set()
        await self.end.wait()
        await send({"type": "http.response.body", "body": b"z"})


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
async def server(stage: Stage) -> AsyncIterator[AsgiServer]:
    server = AsgiServer(stage)
    await server.start()
    yield server
    stage.end.set()
    await server.stop()


async def test_parts_of_both_ways_arrive_in_order(stage: Stage, server: AsgiServer) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        reading = asyncio.create_task(client.get(server.url))
        await stage.open.wait()
        assert stage.write(b"b" * 20)
        assert stage.write(b"c")
        stage.end.set()
        assert (await reading).text == "a" + "b" * 20 + "cz"
        assert not stage.write(b"after the end")


async def test_what_is_not_in_chunks_has_no_such_way(stage: Stage, server: AsgiServer) -> None:
    stage.end.set()
    async with httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.head(server.url)).status_code == 200
    assert stage.write is None
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await reader.read()).endswith(b"\r\n\r\naz")
    assert stage.write is None
    writer.close()


async def test_who_reads_too_slowly_or_has_gone_gets_nothing(stage: Stage, server: AsgiServer) -> None:
    _, writer = await asyncio.open_connection(server.host, server.port)
    transport: Any = writer.transport
    transport.pause_reading()
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await stage.open.wait()
    for _ in range(1000):
        if not stage.write(bytes(65_536)):
            break
        await asyncio.sleep(0)
    assert not stage.write(b"more")
    writer.transport.abort()

    async def unread() -> bool:
        return bool(stage.write.args[0].disconnected)

    await eventually(unread)
    assert not stage.write(b"more")


@pytest.mark.parametrize("error", [RuntimeError("unable to perform operation"), BrokenPipeError()])
def test_a_connection_that_breaks_at_the_write_gets_nothing(error: Exception) -> None:
    def write(_part: bytes) -> None:
        raise error

    transport = SimpleNamespace(write=write, is_closing=lambda: False)
    cycle = SimpleNamespace(
        scope={"http_version": "1.1", "method": "GET"},
        response_started=True,
        response_complete=False,
        flow=SimpleNamespace(write_paused=False),
        transport=transport,
    )
    assert not part_writer(cycle)[SCOPE_WRITE](b"part")
