"""The shared client: its hooks around the moment at which a request leaves, and the rate headers of an answer."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.base import NO_HOOKS, CallHooks
from providers.errors import ErrorKind, ProviderError
from providers.http.asgi import AsgiServer
from providers.http.client import (
    Answer,
    create_client,
    create_transport,
    drop_idle_connections,
    send_once,
)
from tests.providers.no_descriptors import no_descriptors


class _Provider:
    def __init__(self, headers: dict[str, str] | None = None) -> None:
        self.requests = 0
        self._headers = headers or {}

        async def answer(_request: Request) -> Response:
            self.requests += 1
            return Response(b"{}", headers=self._headers)

        self._server = AsgiServer(Starlette(routes=[Route("/", answer)]), "127.0.0.1", 0)

    async def start(self) -> str:
        await self._server.start()
        return self._server.url

    async def stop(self) -> None:
        await self._server.stop()

    async def call(self, hooks: CallHooks = NO_HOOKS, times: int = 1) -> list[Answer]:
        await self._server.start()
        client = create_client(self._server.url)
        try:
            return [
                await send_once(
                    client, client.build_request("GET", self._server.url), timeout_s=5, hooks=hooks
                )
                for _ in range(times)
            ]
        finally:
            await client.aclose()
            await self._server.stop()


async def test_before_send_runs_once_a_request_before_it_leaves() -> None:
    provider = _Provider()
    calls: list[tuple[int, bool]] = []

    async def before_send(rtt_s: float | None) -> None:
        calls.append((provider.requests, rtt_s is not None))

    await provider.call(CallHooks(before_send), times=2)
    assert calls == [(0, True), (1, False)], "only the first one connected"


@pytest.mark.parametrize(("paid", "connects"), [(True, [True, True]), (False, [True, False])])
async def test_only_requests_that_cost_nothing_leave_on_a_connection_that_was_idle_for_long(
    paid: bool, connects: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.http.client.PAID_IDLE_S", 0.01)
    connected: list[bool] = []

    async def before_send(rtt_s: float | None) -> None:
        connected.append(rtt_s is not None)

    provider = _Provider()
    url = await provider.start()
    async with create_client(url, paid=paid) as client:
        for _ in range(2):
            await send_once(
                client, client.build_request("GET", url), timeout_s=5, hooks=CallHooks(before_send)
            )
            await asyncio.sleep(0.05)
    await provider.stop()
    assert connected == connects


async def test_without_a_descriptor_idle_connections_are_closed_and_nothing_is_sent() -> None:
    provider = _Provider()
    url = await provider.start()
    async with create_client(url) as idle, create_client(url) as other:
        await send_once(idle, idle.build_request("GET", url), timeout_s=5)
        with no_descriptors():
            with pytest.raises(ProviderError, match=r"no file descriptor left.*nothing was sent") as caught:
                await send_once(other, other.build_request("GET", url), timeout_s=5)
            os.close(os.open(os.devnull, os.O_RDONLY))
        assert caught.value.kind is ErrorKind.NETWORK_UNSENT
    await provider.stop()
    assert provider.requests == 1


async def test_a_connection_that_found_work_meanwhile_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        idle = True
        closed = False

        def is_idle(self) -> bool:
            return self.idle

        async def aclose(self) -> None:
            self.closed = True
            second.idle = False  # a paid request took it while this one was closed

    first, second = Connection(), Connection()
    async with create_transport(None, 2.0, 1) as transport:
        monkeypatch.setattr(transport, "_pool", SimpleNamespace(connections=[first, second]))
        assert await drop_idle_connections() == 1
        monkeypatch.undo()
    assert (first.closed, second.closed) == (True, False)


async def test_the_way_through_a_proxy_is_no_request_that_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    calls: list[str] = []
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with create_client("https://api.example") as client:
        request = client.build_request("POST", "https://api.example", content=b"{}")
        with pytest.raises(ProviderError) as caught:
            await send_once(
                client, request, timeout_s=5, hooks=CallHooks(None, lambda: calls.append("written"))
            )
    server.close()
    assert caught.value.kind is ErrorKind.NETWORK_UNSENT
    assert calls == []


async def test_after_send_runs_once_a_request_when_it_is_written() -> None:
    calls: list[str] = []

    async def before_send(_rtt_s: float | None) -> None:
        calls.append("leaves")

    await _Provider().call(CallHooks(before_send, lambda: calls.append("written")), times=2)
    assert calls == ["leaves", "written"] * 2


async def test_an_error_of_before_send_keeps_the_request_from_leaving() -> None:
    class NotNow(Exception):  # noqa: N818 - as an outcome of the daemon would be
        pass

    async def before_send(_rtt_s: float | None) -> None:
        raise NotNow

    provider = _Provider()
    with pytest.raises(NotNow):
        await provider.call(CallHooks(before_send))
    assert provider.requests == 0


async def test_a_before_send_without_an_end_in_time_sends_nothing() -> None:
    async def before_send(_rtt_s: float | None) -> None:
        raise TimeoutError

    with pytest.raises(ProviderError) as caught:
        await _Provider().call(CallHooks(before_send))
    assert caught.value.kind is ErrorKind.NETWORK_UNSENT


async def test_rate_headers_keep_their_date_and_no_other_header() -> None:
    (answer,) = await _Provider({"X-RateLimit-Remaining": "7", "X-Secret": "planted"}).call()
    assert answer.rate_headers.keys() == {"x-ratelimit-remaining", "date"}
    (answer,) = await _Provider().call()
    assert answer.rate_headers == {}
