"""Messages are posted once, to a checked address, and a redirect is only an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from providers.http.outside import OutsideError, post

Serve = Callable[[Any], Any]
HERE = ["127.0.0.1"]


def hook_app(got: list[tuple[dict[str, str], bytes]]) -> Starlette:
    async def hook(request: Request) -> Response:
        got.append((dict(request.headers), await request.body()))
        return JSONResponse({"ok": True}, status_code=202)

    async def moved(_request: Request) -> Response:
        return RedirectResponse("/hook", 307)

    async def stuck(request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return Response()

    paths = (("/hook", hook), ("/moved", moved), ("/stuck", stuck))
    return Starlette(routes=[Route(path, endpoint, methods=["POST"]) for path, endpoint in paths])


async def test_a_message_arrives_with_its_headers_and_the_status_comes_back(serve: Serve) -> None:
    got: list[tuple[dict[str, str], bytes]] = []
    url = await serve(hook_app(got))
    headers = {"webhook-id": "m1", "content-type": "application/json"}
    assert await post(f"{url}/hook?a=b", b"{}", headers, timeout_s=5, allow_hosts=HERE) == 202
    ((arrived, body),) = got
    assert (arrived["webhook-id"], arrived["content-type"], body) == ("m1", "application/json", b"{}")
    assert "authorization" not in arrived
    assert "cookie" not in arrived


async def test_a_redirect_is_not_followed(serve: Serve) -> None:
    got: list[tuple[dict[str, str], bytes]] = []
    url = await serve(hook_app(got))
    assert await post(f"{url}/moved", b"{}", {}, timeout_s=5, allow_hosts=HERE) == 307
    assert got == []


async def test_a_receiver_that_never_answers_is_given_up_and_only_its_host_is_named(serve: Serve) -> None:
    url = await serve(hook_app([]))
    with pytest.raises(OutsideError) as caught:
        await post(f"{url}/stuck?sig=geheim", b"{}", {}, timeout_s=0.2, allow_hosts=HERE)
    assert caught.value.message == "127.0.0.1 did not answer within 0.2 s."


async def test_a_closed_port_is_a_sentence_without_the_query() -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(OutsideError, match="could not be reached") as caught:
        await post(f"http://127.0.0.1:{port}/x?sig=geheim", b"", {}, timeout_s=5, allow_hosts=HERE)
    assert "geheim" not in str(caught.value)
    assert not caught.value.refused


async def test_a_name_that_leads_into_the_private_network_is_refused() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["10.0.0.5"]

    with pytest.raises(OutsideError, match="not a public address") as caught:
        await post("https://hooks.example/x", b"", {}, timeout_s=5, resolver=resolve)
    assert caught.value.refused


@pytest.mark.parametrize(
    "url", ["http://hooks.example/x", "https://127.0.0.1/x", "https://hooks.example:8443/x"]
)
async def test_an_address_that_breaks_a_rule_is_refused_offline(url: str) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise AssertionError("the network was used")

    with pytest.raises(OutsideError) as caught:
        await post(url, b"", {}, timeout_s=5, resolver=resolve)
    assert caught.value.refused


async def test_the_connection_goes_to_the_resolved_address_and_keeps_the_name(serve: Serve) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    got: list[tuple[dict[str, str], bytes]] = []
    port = (await serve(hook_app(got))).rpartition(":")[2]
    url = f"http://hooks.example:{port}/hook"
    await post(url, b"", {}, timeout_s=5, allow_hosts=["hooks.example"], resolver=resolve)
    assert got[0][0]["host"] == f"hooks.example:{port}"


async def test_a_message_goes_once_to_the_first_address_that_answers(serve: Serve) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.9", "127.0.0.1", "127.0.0.1"]

    got: list[tuple[dict[str, str], bytes]] = []
    port = (await serve(hook_app(got))).rpartition(":")[2]
    url = f"http://hooks.example:{port}/hook"
    assert await post(url, b"{}", {}, timeout_s=5, allow_hosts=["hooks.example"], resolver=resolve) == 202
    assert [body for _, body in got] == [b"{}"]
