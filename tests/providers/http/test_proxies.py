"""The proxy that the environment names: for whom, in which spelling, and which ones are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from providers.http.client import create_client
from providers.http.outside import OutsideError, download, leave_by_proxy, post
from providers.http.proxies import environment_problems, proxies, proxy_for

Serve = Callable[[Any], Any]
PROXY = "http://proxy.corp:3128"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield
    leave_by_proxy(True)


def chosen(url: str, **environ: str) -> str | None:
    proxy = proxy_for(httpx2.URL(url), environ)
    return None if proxy is None else str(proxy.url)


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": "proxy.corp:3128"}, PROXY),
        ({"ALL_PROXY": PROXY}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": "http://other:1", "https_proxy": PROXY}, PROXY),
        ({"HTTPS_PROXY": PROXY, "https_proxy": ""}, None),
        ({"HTTPS_PROXY": "http://user:geheim@proxy.corp:3128"}, PROXY),
    ],
)
def test_the_proxy_of_an_address_comes_from_the_environment(
    environ: dict[str, str], proxy: str | None
) -> None:
    assert chosen("https://api.openai.com/v1", **environ) == proxy


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("*", "https://api.example/"),
        ("api.example", "https://api.example/"),
        (".example", "https://api.example/"),
        ("*.example", "https://api.example/"),
        ("example", "https://api.example/"),
        ("api.example:8443", "https://api.example:8443/"),
        ("10.0.0.0/8", "http://10.1.2.3/"),
        ("10.1.2.3", "http://10.1.2.3/"),
        ("::1, fd00::/8", "http://[fd00::5]/"),
    ],
)
def test_an_entry_of_no_proxy_means_a_name_and_all_below_it(entry: str, url: str) -> None:
    assert chosen(url, ALL_PROXY=PROXY, NO_PROXY=f"other.test, {entry}") is None


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("pi.example", "https://api.example/"),
        ("api.example:8443", "https://api.example/"),
        ("10.0.0.0/8", "http://11.1.2.3/"),
        ("10.0.0.0/8", "https://ten.example/"),
    ],
)
def test_other_hosts_than_those_of_no_proxy_use_the_proxy(entry: str, url: str) -> None:
    assert chosen(url, ALL_PROXY=PROXY, NO_PROXY=entry) == PROXY


@pytest.mark.parametrize("host", ["127.0.0.1:9200", "localhost", "[::1]:80", "a.localhost"])
def test_this_machine_is_never_reached_by_a_proxy(host: str) -> None:
    assert chosen(f"http://{host}/", ALL_PROXY=PROXY) is None


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("SSL_CERT_FILE", "/no/such/ca.pem", "/no/such/ca.pem"),
        ("SSL_CERT_FILE", __file__, "holds no certificate"),
        ("SSL_CERT_DIR", "/no/such/folder", "/no/such/folder"),
        ("ALL_PROXY", "socks://127.0.0.1:7890/", "socks://127.0.0.1:7890"),
        ("all_proxy", "ftp://user:geheim@proxy:1", "ftp://proxy:1"),
        ("HTTPS_PROXY", "http://user:geheim@proxy:port", "not the address"),
        ("HTTP_PROXY", "http://", "not the address"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_without_its_password(
    variable: str, value: str, why: str
) -> None:
    (problem,) = environment_problems({variable: value})
    assert problem.startswith(f"{variable} is ")
    assert why in problem
    assert "geheim" not in problem


@pytest.mark.parametrize("installed", [True, False])
def test_socks_needs_its_extra_and_says_so(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.http.proxies.find_spec", lambda _: object() if installed else None)
    environ = {"ALL_PROXY": "socks5://u:geheim@127.0.0.1:7890"}
    problems = list(environment_problems(environ))
    assert [("pixmill-daemon[socks]" in each, "geheim" in each) for each in problems] == [(True, False)] * (
        not installed
    )
    if installed:
        assert proxies(environ) == [("ALL_PROXY", httpx2.URL("socks5://127.0.0.1:7890"))]


def hop(got: list[str]) -> Any:
    """A proxy for plain http: it answers everything itself, and keeps the addresses that it was given."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            got.append(f"{scope['method']} {scope['path']}")
            await Response(b"by proxy")(scope, receive, send)

    return answer


async def nowhere(_host: str, _port: int) -> Sequence[str]:
    raise OSError("there is no resolver in this network")


async def test_calls_results_and_callbacks_leave_by_the_same_proxy(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[str] = []
    monkeypatch.setenv("HTTP_PROXY", await serve(hop(got)))
    url, allowed = "http://shop.example/a.png", ["shop.example"]
    assert await download(url, max_bytes=99, allow_hosts=allowed, resolver=nowhere) == b"by proxy"
    assert await post(url, b"{}", {}, timeout_s=5, allow_hosts=allowed, resolver=nowhere) == 200
    async with create_client("http://api.example/v1") as client:
        await client.post("http://api.example/v1/images")
    assert got == [f"GET {url}", f"POST {url}", "POST http://api.example/v1/images"]


async def test_results_may_be_kept_off_the_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []
    monkeypatch.setenv("HTTP_PROXY", await serve(hop(got)))
    leave_by_proxy(False)
    with pytest.raises(OutsideError, match="could not be resolved"):
        await download(
            "http://shop.example/a.png", max_bytes=99, allow_hosts=["shop.example"], resolver=nowhere
        )
    assert got == []


@pytest.mark.parametrize("url", ["https://10.0.0.7/x", "https://printer.local/x", "http://shop.example/x"])
async def test_an_address_is_checked_although_a_proxy_resolves_names(
    url: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[str] = []
    monkeypatch.setenv("ALL_PROXY", await serve(hop(got)))
    with pytest.raises(OutsideError) as caught:
        await download(url, max_bytes=99)
    assert caught.value.refused
    assert got == []


async def test_a_proxy_that_refuses_a_tunnel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(
        OutsideError, match=r"failed \(by the proxy http://127\.0\.0\.1:\d+: it answered 403\)"
    ):
        await download("https://cdn.example/x", max_bytes=9)
    server.close()


async def test_a_socks_proxy_gets_the_name_and_passes_the_bytes_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[str] = []
    port = int((await serve(hop(got))).rpartition(":")[2])

    async def serve_socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)  # version 5, one method: no login
        writer.write(b"\x05\x00")
        length = (await reader.readexactly(5))[4]  # connect to a name of this length
        got.append((await reader.readexactly(length + 2))[:-2].decode())
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        upstream, onward = await asyncio.open_connection("127.0.0.1", port)
        onward.write(await reader.readuntil(b"\r\n\r\n"))
        writer.write(await upstream.readuntil(b"by proxy"))
        await writer.drain()
        for stream in (writer, onward):
            stream.close()

    server = await asyncio.start_server(serve_socks, "127.0.0.1", 0)
    monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    url, allowed = "http://shop.example/a.png", ["shop.example"]
    assert await download(url, max_bytes=99, allow_hosts=allowed, resolver=nowhere) == b"by proxy"
    assert got == ["shop.example", "GET /a.png"]
    server.close()
