"""The shared client: what is told at the moment at which a request leaves, and of its answer's rate headers."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.errors import ErrorKind, ProviderError
from providers.http.asgi import AsgiServer
from providers.http.client import after_send, before_send, create_client, rate_headers, send_once


class _Provider:
    def __init__(self, headers: dict[str, str] | None = None) -> None:
        self.asked = 0
        self._headers = headers or {}

        async def answer(_request: Request) -> Response:
            self.asked += 1
            return Response(b"{}", headers=self._headers)

        self._server = AsgiServer(Starlette(routes=[Route("/", answer)]), "127.0.0.1", 0)

    async def call(self, times: int = 1) -> None:
        await self._server.start()
        client = create_client(self._server.url)
        try:
            for _ in range(times):
                await send_once(client, client.build_request("GET", self._server.url), timeout_s=5)
        finally:
            await client.aclose()
            await self._server.stop()


async def test_who_wants_to_know_is_told_once_a_request_before_it_leaves() -> None:
    provider = _Provider()
    told: list[tuple[int, bool]] = []

    async def tell(rtt_s: float | None) -> None:
        told.append((provider.asked, rtt_s is not None))

    before_send.set(tell)
    try:
        await provider.call(times=2)
    finally:
        before_send.set(None)
    assert told == [(0, True), (1, False)], "only the first one connected"


async def test_who_wants_to_know_is_told_once_a_request_when_it_has_been_written() -> None:
    provider = _Provider()
    told: list[str] = []

    async def leaves(_rtt_s: float | None) -> None:
        told.append("leaves")

    before_send.set(leaves)
    after_send.set(lambda: told.append("written"))
    try:
        await provider.call(times=2)
    finally:
        before_send.set(None)
        after_send.set(None)
    assert told == ["leaves", "written"] * 2


async def test_what_is_raised_then_keeps_the_request_from_leaving() -> None:
    provider = _Provider()

    class NotNow(Exception):  # noqa: N818 - as an outcome of the daemon would be
        pass

    async def tell(_rtt_s: float | None) -> None:
        raise NotNow

    before_send.set(tell)
    try:
        with pytest.raises(NotNow):
            await provider.call()
    finally:
        before_send.set(None)
    assert provider.asked == 0


async def test_who_is_never_told_in_time_sends_nothing() -> None:
    async def tell(_rtt_s: float | None) -> None:
        raise TimeoutError

    before_send.set(tell)
    try:
        with pytest.raises(ProviderError) as caught:
            await _Provider().call()
    finally:
        before_send.set(None)
    assert caught.value.kind is ErrorKind.NETWORK_UNSENT


async def test_rate_headers_are_kept_with_their_date_and_others_are_not() -> None:
    await _Provider({"X-RateLimit-Remaining": "7", "X-Secret": "planted"}).call()
    assert dict(rate_headers.get()).keys() == {"x-ratelimit-remaining", "date"}
    await _Provider().call()
    assert rate_headers.get() == {}
