"""A client of a gateway says what went wrong, also where a proxy answers, and its key stays secret."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import httpx2
import pytest

import pixmill
from pixmill.transports import over_http

KEY = "pxm-planted"
PROBLEM = {"content-type": "application/problem+json"}


def client_of(answer: Callable[[httpx2.Request], httpx2.Response]) -> pixmill.Client:
    client = pixmill.Client("https://inside.example/images", key=KEY)
    transport = client._transport
    assert isinstance(transport, over_http.GatewayTransport)
    own = transport._http
    transport._http = httpx2.AsyncClient(
        base_url=own.base_url, headers=own.headers, transport=httpx2.MockTransport(answer)
    )
    return client


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx2.Response(507), pixmill.UnavailableError),
        (httpx2.Response(520, text="<html>"), pixmill.UnavailableError),
        (httpx2.Response(301, headers={"location": "https://else.example"}), pixmill.NotRunningError),
        (httpx2.Response(404, text="<html>"), pixmill.NotRunningError),
        (httpx2.Response(200, text="<html>"), pixmill.NotRunningError),
        (httpx2.Response(404, json={"detail": "no"}, headers=PROBLEM), pixmill.NotFoundError),
        (httpx2.Response(422, json={"detail": "no"}, headers=PROBLEM), pixmill.RejectedError),
    ],
    ids=lambda given: str(given.status_code) if isinstance(given, httpx2.Response) else given.__name__,
)
async def test_an_answer_becomes_the_error_that_it_is(
    answer: httpx2.Response, error: type[Exception]
) -> None:
    async with client_of(lambda _: answer) as client:
        with pytest.raises(pixmill.PixmillError) as caught:
            await client.cancel("b1")
        assert type(caught.value) is error


@pytest.mark.parametrize("key", ["pxm-planted\nX: y", "pxm-plänted", "pxm planted", " "])
def test_a_key_that_no_gateway_has_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(pixmill.AccessError) as caught:
        pixmill.Client("https://inside.example", key=key)
    assert "nted" not in "".join(traceback.format_exception(caught.value)).replace('planted"', "")
    pixmill.Client("https://inside.example", key="pxm-planted\n")


async def test_an_error_of_the_library_is_no_cause_of_ours() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.LocalProtocolError(f"Illegal header value {request.headers['authorization']}")

    async with client_of(answer) as client:
        for call in (client.cancel("b1"), client.picture(picture("https://inside.example/images/v1/x"))):
            with pytest.raises(pixmill.UnavailableError) as caught:
                await call
            shown = "".join(traceback.format_exception(caught.value))
            assert KEY not in shown
            assert "LocalProtocolError" not in shown


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("http://h:bad", "cannot be read"),
        ("redis+cluster://h", "`prefix` must stand in braces"),
    ],
)
def test_a_wrong_address_is_an_error_of_ours(address: str, error: str) -> None:
    with pytest.raises(pixmill.NotRunningError, match=error):
        pixmill.Client(address)


async def test_a_field_that_is_no_json_is_refused_in_a_batch_of_any_size() -> None:
    async with client_of(lambda _: httpx2.Response(200, json={})) as client:
        for count in (1, 1001):
            with pytest.raises(pixmill.RejectedError, match="no JSON"):
                await client.submit_batch([{"prompt": "x", "seed": object()}] * count)


async def test_a_picture_of_the_gateway_is_read_with_the_key_under_any_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def outside(url: str) -> bytes:
        return url.encode()

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        return httpx2.Response(200, text=str(request.url))

    monkeypatch.setattr(over_http, "fetched", outside)
    async with client_of(answer) as client:
        for address, read in (
            ("https://public.example/p/v1/batches/b/items/i/images/0?tenant=t",
             b"https://inside.example/images/v1/batches/b/items/i/images/0?tenant=t"),
            ("https://inside.example/images/v1/jobs/j/images/0", b"https://inside.example/images/v1/jobs/j/images/0"),
            ("https://bucket.example/v1/pictures/a.png", b"https://bucket.example/v1/pictures/a.png"),
        ):  # fmt: skip
            assert await client.picture(picture(address)) == read


def picture(url: str) -> pixmill.Result:
    return pixmill.Result("i", "j", "succeeded", ({"url": url},), None)
