"""An HTTP server as a part of a process."""

from __future__ import annotations

import asyncio
import signal

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from providers.http.asgi import AsgiServer


async def hello(_request: object) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


async def test_the_server_starts_and_stops_and_leaves_signals_and_stdout_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    server = AsgiServer(APP)
    await server.start()
    async with httpx2.AsyncClient() as client:
        assert (await client.get(server.url)).text == "hello"
    assert signal.getsignal(signal.SIGTERM) is before
    await server.stop()
    await server.stop()
    async with httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get(server.url)
    assert capsys.readouterr().out == ""


async def test_a_taken_port_is_a_sentence() -> None:
    first = AsgiServer(APP)
    await first.start()
    try:
        with pytest.raises(OSError, match=rf"Cannot listen on 127\.0\.0\.1:{first.port}: .*another port\."):
            await AsgiServer(APP, port=first.port).start()
    finally:
        await first.stop()


async def test_servers_that_start_together_share_out_the_ports() -> None:
    first = AsgiServer(APP)
    await first.start()
    others = [AsgiServer(APP, port=first.port, spare_ports=99) for _ in range(3)]
    try:
        await asyncio.gather(*(other.start() for other in others))
        assert len({first.port, *(other.port for other in others)}) == 4
    finally:
        for server in (first, *others):
            await server.stop()


async def test_an_app_that_fails_at_startup_raises() -> None:
    async def broken(scope: dict[str, object], _receive: object, send: object) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.failed", "message": "no"})  # type: ignore[operator]

    with pytest.raises(RuntimeError, match="failed while it started"):
        await AsgiServer(broken).start()


async def test_stopping_without_a_start_does_nothing() -> None:
    await AsgiServer(APP).stop()
