"""Safe downloads: refused addresses, caps, and connections to the checked address alone."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from providers.http.addresses import Resolver, check_url, safe_addresses
from providers.http.exchange import KeptConnections
from providers.http.outside import OutsideError, download

Serve = Callable[[Any], Any]


def resolving(*addresses: str) -> Resolver:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return resolve


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x.png",
        "ftp://example.org/x.png",
        "file:///etc/passwd",
        "https://user:pw@example.org/x.png",
        "https://example.org:8443/x.png",
        "https://localhost/x.png",
        "https://LOCALHOST./x.png",
        "https://printer.local/x.png",
        "https://metadata.google.internal/x",
        "https://127.0.0.1/x.png",
        "https://127.1/x.png",
        "https://2130706433/x.png",
        "https://0x7f000001/x.png",
        "https://0.0.0.0/",
        "https://10.0.0.1/",
        "https://172.16.9.9/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://",
        "not a url",
        "https://exa mple.org/",
    ],
)
def test_addresses_that_are_not_public_https_are_refused_offline(url: str) -> None:
    problem = check_url(url)
    assert problem is not None
    assert problem.endswith(".")


@pytest.mark.parametrize(
    "url", ["https://example.org/x.png", "https://8.8.8.8/x", "https://[2606:4700::1111]/x"]
)
def test_public_https_addresses_pass(url: str) -> None:
    assert check_url(url) is None


def test_an_allowed_host_may_be_private_and_plain_on_its_port_only() -> None:
    assert check_url("http://127.0.0.1:9200/x", ["127.0.0.1:9200"]) is None
    assert check_url("http://127.0.0.1:9201/x", ["127.0.0.1:9200"]) is not None
    assert check_url("http://minio:9000/x", ["minio"]) is None
    assert check_url("http://[::1]:9000/x", ["[::1]:9000"]) is None


PUBLIC = "give an https URL of a public host"
OR_ALLOWED = f"{PUBLIC}, or let the operator add the host to `allow_hosts`"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "http://169.254.169.254/x",
            f"169.254.169.254 is not a public address, and one that is never fetched: {PUBLIC}.",
        ),
        ("http://10.0.0.1/x", f"10.0.0.1 is not a public address: {OR_ALLOWED}."),
        ("http://printer.local:8080/x", f"printer.local is not a public address: {OR_ALLOWED}."),
        ("http://cdn.example/x", f"Plain http is not accepted for cdn.example: {OR_ALLOWED}."),
        ("https://cdn.example:8443/x", f"Port 8443 is not accepted for cdn.example: {OR_ALLOWED}."),
    ],
)
def test_a_refused_address_says_what_to_change(url: str, sentence: str) -> None:
    assert check_url(url) == sentence


def test_the_cloud_metadata_address_cannot_be_allowed() -> None:
    assert check_url("http://169.254.169.254/", ["169.254.169.254"]) is not None


@pytest.mark.parametrize(
    "private", ["10.1.2.3", "127.0.0.1", "169.254.169.254", "fd00::5", "::ffff:10.0.0.1"]
)
async def test_a_name_with_one_private_address_among_its_addresses_is_refused(private: str) -> None:
    with pytest.raises(OutsideError, match="not a public address") as caught:
        await download(
            "https://cdn.example.org/x", max_bytes=1000, resolver=resolving("93.184.216.34", private)
        )
    assert caught.value.refused


async def test_an_allowed_name_is_still_refused_when_it_leads_to_link_local() -> None:
    with pytest.raises(OutsideError, match="not a public address"):
        await download(
            "http://minio/x", max_bytes=9, allow_hosts=["minio"], resolver=resolving("169.254.169.254")
        )


def file_app() -> Starlette:
    """Files and redirects; `/echo` shows what the request carried."""

    async def echo(request: Request) -> Response:
        return Response("\n".join(f"{name}: {value}" for name, value in request.headers.items()))

    async def stream(_request: Request) -> Response:
        async def chunks() -> Any:
            for _ in range(100):
                yield b"x" * 1000

        return StreamingResponse(chunks())

    async def stuck(request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return Response()

    async def hops(request: Request) -> Response:
        left = int(request.path_params["left"])
        return RedirectResponse(f"/hops/{left - 1}") if left else Response(b"arrived")

    async def away(request: Request) -> Response:
        return RedirectResponse(request.query_params["to"])

    return Starlette(
        routes=[
            Route("/echo", echo),
            Route("/stream", stream),
            Route("/stuck", stuck),
            Route("/hops/{left:int}", hops),
            Route("/away", away),
        ]
    )


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


async def test_the_connection_goes_to_the_resolved_address_and_keeps_the_name(serve: Serve) -> None:
    port = port_of(await serve(file_app()))
    body = await download(
        f"http://files.example:{port}/echo",
        max_bytes=10_000,
        allow_hosts=["files.example"],
        resolver=resolving("127.0.0.1"),
    )
    assert f"host: files.example:{port}" in body.decode()


@pytest.mark.parametrize("dead", ["127.0.0.9", "::1"])
async def test_the_next_address_is_tried_where_nothing_listens_at_the_first(serve: Serve, dead: str) -> None:
    port = port_of(await serve(file_app()))
    url, names = f"http://files.example:{port}/hops/1", ["files.example"]
    resolver = resolving(dead, "127.0.0.1")
    assert await download(url, max_bytes=100, allow_hosts=names, resolver=resolver) == b"arrived"


async def test_the_next_address_is_tried_while_the_first_one_is_silent(serve: Serve) -> None:
    port = int(port_of(await serve(file_app())))
    url, names = f"http://files.example:{port}/hops/0", ["files.example"]
    resolver = resolving("127.0.0.9", "127.0.0.1")
    with full_queue("127.0.0.9", port):
        found = await download(url, max_bytes=100, allow_hosts=names, timeout_s=3, resolver=resolver)
    assert found == b"arrived"


async def test_ipv4_and_ipv6_addresses_are_tried_in_turn() -> None:
    target = httpx2.URL("https://cdn.example/x")
    found = ["2606:4700::1", "2606:4700::2", "93.184.216.34", "93.184.216.35", "93.184.216.34"]
    assert await safe_addresses(target, (), resolving(*found)) == [
        *("2606:4700::1", "93.184.216.34"),
        *("2606:4700::2", "93.184.216.35"),
    ]


@contextmanager
def full_queue(host: str, port: int) -> Iterator[None]:
    """A listener that lets no further connection in: to a client it looks like a route that leads nowhere."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            client = opened.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((host, port))
        yield


async def test_no_credentials_and_cookies_are_sent(serve: Serve) -> None:
    url = await serve(file_app())
    body = (await download(f"{url}/echo", max_bytes=10_000, allow_hosts=["127.0.0.1"])).decode().lower()
    assert "authorization" not in body
    assert "cookie" not in body


async def test_a_stream_without_a_length_is_cut_at_the_cap(serve: Serve) -> None:
    url = await serve(file_app())
    with pytest.raises(OutsideError, match="larger than 5000 bytes") as caught:
        await download(f"{url}/stream", max_bytes=5000, allow_hosts=["127.0.0.1"])
    assert caught.value.refused


async def test_a_server_that_never_answers_is_given_up(serve: Serve) -> None:
    url = await serve(file_app())
    with pytest.raises(OutsideError, match=r"did not finish within 0\.2 s"):
        await download(f"{url}/stuck", max_bytes=10, allow_hosts=["127.0.0.1"], timeout_s=0.2)


async def test_three_redirects_are_followed_and_four_are_not(serve: Serve) -> None:
    url = await serve(file_app())
    assert await download(f"{url}/hops/3", max_bytes=100, allow_hosts=["127.0.0.1"]) == b"arrived"
    with pytest.raises(OutsideError, match="more than 3 times"):
        await download(f"{url}/hops/4", max_bytes=100, allow_hosts=["127.0.0.1"])


@pytest.mark.parametrize("to", ["https://10.0.0.1/", "http://169.254.169.254/latest", "file:///etc/passwd"])
async def test_a_redirect_is_checked_like_a_first_address(serve: Serve, to: str) -> None:
    url = await serve(file_app())
    with pytest.raises(OutsideError) as caught:
        await download(f"{url}/away?to={to}", max_bytes=100, allow_hosts=["127.0.0.1"])
    assert caught.value.refused


async def test_a_missing_file_has_its_status(serve: Serve) -> None:
    url = await serve(file_app())
    with pytest.raises(OutsideError) as caught:
        await download(f"{url}/nothing?sig=geheim", max_bytes=100, allow_hosts=["127.0.0.1"])
    assert caught.value.http_status == 404
    assert not caught.value.refused
    assert "geheim" not in str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for files.example, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificate with the openssl command")
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=files.example", "-addext", "subjectAltName=DNS:files.example"]
    files = ["-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return paths


async def test_tls_is_verified_against_the_name_and_not_the_address(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecure")
        await writer.drain()
        writer.close()

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=certificate[0])
    monkeypatch.setattr("providers.http.exchange.tls_context", lambda: trusting)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]

    async def fetched(name: str) -> bytes:
        url = f"https://{name}:{port}/x"
        return await download(url, max_bytes=100, allow_hosts=[name], resolver=resolving("127.0.0.1"))

    assert await fetched("files.example") == b"secure"
    with pytest.raises(OutsideError, match=r"failed \(its certificate is not trusted: Hostname mismatch"):
        await fetched("other.example")
    monkeypatch.setattr("providers.http.exchange.tls_context", ssl.create_default_context)
    with pytest.raises(OutsideError, match=r"not trusted: self-signed certificate; .*SSL_CERT_FILE"):
        await fetched("files.example")
    server.close()


async def test_a_closed_port_is_a_sentence_without_the_query() -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(OutsideError, match=r"failed \(connection refused\)") as caught:
        await download(f"http://127.0.0.1:{port}/x?sig=geheim", max_bytes=10, allow_hosts=["127.0.0.1"])
    assert "geheim" not in str(caught.value)


async def seen_port(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the client's port: that of its connection."""
    if scope["type"] == "http":
        await Response(str(scope["client"][1]))(scope, receive, send)


@pytest.mark.parametrize(("most_hosts", "kept"), [(8, True), (1, False)])
async def test_a_connection_is_kept_for_the_next_picture_of_its_name_and_serves_no_other(
    most_hosts: int, kept: bool, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.http.exchange.MOST_HOSTS", most_hosts)
    port = (await serve(seen_port)).rpartition(":")[2]
    names, connections = ["a.example", "b.example"], KeptConnections()

    async def fetched(name: str, given: KeptConnections | None = connections) -> bytes:
        url = f"http://{name}:{port}/x"
        return await download(
            url, max_bytes=100, allow_hosts=names, resolver=resolving("127.0.0.1"), connections=given
        )

    first = await fetched("a.example")
    assert await fetched("a.example") == first
    assert first not in (await fetched("b.example"), await fetched("a.example", None))
    assert (await fetched("a.example") == first) is kept
    await connections.aclose()


async def test_the_address_of_a_kept_connection_is_checked_again(serve: Serve) -> None:
    port = (await serve(seen_port)).rpartition(":")[2]
    url, connections = f"http://a.example:{port}/x", KeptConnections()
    options: dict[str, Any] = {
        "max_bytes": 100,
        "allow_hosts": ["a.example"],
        "connections": connections,
    }
    await download(url, resolver=resolving("127.0.0.1"), **options)
    with pytest.raises(OutsideError, match="not a public address"):
        await download(url, resolver=resolving("169.254.169.254"), **options)
    await connections.aclose()
