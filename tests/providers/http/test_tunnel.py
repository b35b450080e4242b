"""HTTPS through a proxy: calls and downloads pass, and a proxy that lets nothing pass is named and costs nothing."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from providers.base import CallHooks, Generated, Submitted
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.http.outside import OutsideError, download, post
from providers.http.tls import tls_context
from tests.providers.conftest import OpenProvider, request_for

NAMES = ("api.example", "cdn.example")
LOGIN = "Basic " + base64.b64encode(b"user:geheim").decode()
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)

Listen = Callable[..., Any]


@pytest.fixture
def server_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """The side of a server whose certificate a CA of this test signed; clients trust that CA alone."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificates with the openssl command")
    ca, cert = tmp_path / "ca", tmp_path / "cert"
    names = ",".join(f"DNS:{name}" for name in NAMES)
    for path, subject, rest in (
        (ca, "/CN=test CA", []),
        (
            cert,
            f"/CN={NAMES[0]}",
            ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-addext", f"subjectAltName={names}"],
        ),
    ):
        command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        files = ["-out", f"{path}.pem", "-keyout", f"{path}.key"]
        subprocess.run([*command.split(), "-subj", subject, *rest, *files], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", f"{ca}.pem")
    tls_context.cache_clear()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{cert}.pem", f"{cert}.key")
    yield context
    tls_context.cache_clear()


@pytest.fixture
async def listen(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listen]:
    """Starts a server of this machine; returns its port. No proxy is set at first."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    async with AsyncExitStack() as stack:

        async def start(answer: Any, tls: ssl.SSLContext | None = None) -> int:
            server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
            stack.callback(server.close)
            return int(server.sockets[0].getsockname()[1])

        yield start


async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The provider, the host of its pictures, and a receiver of callbacks, in one."""
    head = await reader.readuntil(b"\r\n\r\n")
    body = PICTURE
    if b" /v1/images" in head:
        body = orjson.dumps({"data": [{"b64_json": base64.b64encode(PICTURE).decode()}]})
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))
    await writer.drain()
    writer.close()


class Proxy:
    """A CONNECT proxy: it leads every name to `port` of this machine, and keeps the first lines that it gets."""

    def __init__(self, port: int, *, login: str = "") -> None:
        self.got: list[str] = []
        self._port = port
        self._login = login

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.got.append(head.partition(" HTTP/")[0])
        if self._login and f"proxy-authorization: {self._login}".lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 4\r\n\r\nno, ")
        else:
            onward = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copied(reader, onward[1]), _copied(onward[0], writer))
        await writer.drain()
        writer.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.mark.parametrize("login", ["", LOGIN])
async def test_calls_results_and_callbacks_pass_a_tunnel_of_the_proxy(
    login: str,
    server_tls: ssl.SSLContext,
    listen: Listen,
    open_provider: OpenProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = Proxy(await listen(origin, server_tls), login=login)
    user = "user:geheim@" if login else ""
    monkeypatch.setenv("HTTPS_PROXY", f"http://{user}127.0.0.1:{await listen(proxy)}")
    provider = open_provider("https://api.example/v1")
    generated = await provider.submit(request_for(), timeout_s=10)
    assert isinstance(generated, Generated)
    assert await provider.fetch(generated.pictures[0]) == PICTURE
    assert await download("https://cdn.example/a.png", max_bytes=999) == PICTURE
    assert await post("https://cdn.example/hook", b"{}", {}, timeout_s=10) == 200
    assert proxy.got == [f"CONNECT {name}:443" for name in ("api.example", "cdn.example", "cdn.example")]


async def test_a_call_to_a_server_that_is_not_trusted_was_not_sent_and_says_why(
    server_tls: ssl.SSLContext, listen: Listen, open_provider: OpenProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    tls_context.cache_clear()
    provider = open_provider(f"https://127.0.0.1:{await listen(origin, server_tls)}/v1")
    with pytest.raises(ProviderError, match=r"\(its certificate is not trusted: .*SSL_CERT_FILE") as caught:
        await provider.submit(request_for(), timeout_s=10)
    assert (caught.value.kind, caught.value.charged) == (ErrorKind.NETWORK_UNSENT, Charged.NO)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_call_that_the_proxy_refuses_was_not_sent_and_names_the_proxy(
    scheme: str, listen: Listen, open_provider: OpenProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(0, login=LOGIN)
    port = await listen(proxy)
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:wrong@127.0.0.1:{port}")
    sent: list[str] = []
    hooks = CallHooks(after_send=lambda: sent.append("sent"))
    provider = open_provider(f"{scheme}://api.example/v1")
    with pytest.raises(ProviderError) as caught:
        await provider.submit(request_for(), timeout_s=10, hooks=hooks)
    error = caught.value
    assert (error.kind, error.retry, error.charged) == (ErrorKind.NETWORK_UNSENT, Retry.UNSENT, Charged.NO)
    assert error.message.startswith(
        f"api.example could not be reached (by the proxy http://127.0.0.1:{port}: "
    )
    assert "it answered 407, so it wants a user name and a password" in error.message
    assert "wrong" not in repr(error.to_dict())
    assert sent == (["sent"] if scheme == "http" else [])  # to the proxy, which passed nothing on


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_download_and_a_post_name_the_proxy_that_refuses_them(
    scheme: str, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await listen(Proxy(0, login=LOGIN))
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:wrong@127.0.0.1:{port}")
    url, allowed = f"{scheme}://cdn.example/a", ["cdn.example"]
    for attempt in (
        download(url, max_bytes=9, allow_hosts=allowed),
        post(url, b"{}", {}, timeout_s=10, allow_hosts=allowed),
    ):
        with pytest.raises(OutsideError) as caught:
            await attempt
        assert f"by the proxy http://127.0.0.1:{port}: it answered 407, so it wants" in caught.value.message
        assert (caught.value.refused, caught.value.http_status) == (False, None)


async def test_a_poll_that_the_proxy_refuses_says_nothing_about_its_task(
    listen: Listen, open_zimage: OpenProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{await listen(Proxy(0, login=LOGIN))}")
    with pytest.raises(ProviderError, match="could not be reached") as caught:
        await open_zimage("http://api.example/v1").poll(Submitted("t1"))
    assert caught.value.kind is ErrorKind.POLL_ERROR


async def test_a_proxy_that_cannot_be_reached_is_named(
    listen: Listen, open_provider: OpenProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # the port `discard`, which nothing listens at
    with pytest.raises(
        ProviderError, match=r"by the proxy http://127\.0\.0\.1:9: connection refused"
    ) as caught:
        await open_provider("https://api.example/v1").submit(request_for(), timeout_s=10)
    assert caught.value.kind is ErrorKind.NETWORK_UNSENT
