"""A server's answers to slow, broken, oversized and too many connections."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from providers.http import connections
from providers.http.asgi import AsgiServer

GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"


async def serve(request: Request) -> Response:
    """The size of the body; for /flood an answer without an end, for /early and /none one before the body is read."""
    if request.url.path == "/early":
        return PlainTextResponse("no", 413)
    if request.url.path == "/none":
        return Response(status_code=204)
    if request.url.path == "/flood":

        async def flood() -> AsyncIterator[bytes]:
            while True:
                yield bytes(65_536)
                await asyncio.sleep(0)

        return StreamingResponse(flood())
    try:
        return PlainTextResponse(str(len(await request.body())))
    except ClientDisconnect:
        return PlainTextResponse("nobody reads this")


APP = Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "POST"])])


@pytest.fixture
async def server() -> AsyncIterator[AsgiServer]:
    server = AsgiServer(APP, most_connections=4)
    await server.start()
    yield server
    await server.stop()


class Peer:
    """A client that sends what it wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, server: AsgiServer, data: bytes = b"") -> Peer:
        peer = cls(*await asyncio.open_connection(server.host, server.port))
        await peer.send(data)
        return peer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, str]:
        """The status, and the code of a problem or the text of another answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length"))
        text = (await self._reader.readexactly(int(length.split()[1]))).decode()
        return int(head.split()[1]), json.loads(text)["code"] if "problem+json" in head else text

    def leave(self, how: str) -> None:
        """Close the connection, or abort it."""
        getattr(self._writer.transport, how)()

    async def end(self) -> None:
        """Return when the server has closed the connection; what it still sends is read."""
        async with asyncio.timeout(20):
            with suppress(ConnectionError):
                while await self._reader.read(65_536):
                    pass


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (GET + b"a: b\r\n" * 10_000 + b"\r\n", 431, "too_large"),
        (GET + b"a: b\r\n" * 101 + b"\r\n", 431, "too_large"),
        (GET + b"a: " + b"b" * 200_000, 431, "too_large"),
        (GET + b"a: " + b"b" * 17_000 + b"\r\n\r\n", 431, "too_large"),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431, "too_large"),
        (GET + b"a: b\r\n\tfolded\x00\r\n\r\n", 400, "malformed"),
        (GET + b"no header\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01", 400, "malformed"),
        (POST + b"content-length: -1\r\n\r\n", 400, "malformed"),
        (POST + b"content-length: x\r\n\r\n", 400, "malformed"),
        (POST + b"content-length: 1e3\r\n\r\n", 400, "malformed"),
        (POST + b"content-length: " + b"9" * 40 + b"\r\n\r\n", 400, "malformed"),
        (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n12", 400, "malformed"),
        (
            POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"abc"),
            400,
            "malformed",
        ),
        (POST + b"transfer-encoding: gzip\r\n\r\n", 400, "malformed"),
        (POST + b"transfer-encoding: chunked\r\n\r\nx\r\n", 400, "malformed"),
        (POST + b"transfer-encoding: chunked\r\n\r\n" + chunked(*[b"a"] * 2000), 400, "malformed"),
    ],
)
async def test_what_is_no_request_is_refused_and_closed(
    server: AsgiServer, request_bytes: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await Peer.to(server, request_bytes)
    assert await peer.answer() == (status, code)
    await peer.end()
    assert "Traceback" not in caplog.text
    assert await (await Peer.to(server, GET + b"\r\n")).answer() == (200, "0")


async def test_a_body_in_chunks_of_a_common_size_is_taken(server: AsgiServer) -> None:
    data = chunked(*[b"a" * 40] * 2000)
    peer = await Peer.to(server, POST + b"transfer-encoding: chunked\r\n\r\n" + data)
    assert await peer.answer() == (200, "80000")


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
async def test_headers_that_come_byte_by_byte_are_given_up(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 1.5)
    peer = await Peer.to(server, before)
    if before:
        assert await peer.answer() == (200, "0")

    async def drip() -> None:
        for byte in GET * 100:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    assert await peer.answer() == (408, "slow_headers")
    await peer.end()
    dripping.cancel()
    with suppress(ConnectionError, asyncio.CancelledError):
        await dripping


async def test_a_connection_that_sends_nothing_is_closed(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.5)
    await (await Peer.to(server)).end()


async def test_a_body_that_nobody_reads_does_not_keep_its_connection(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.5)
    peer = await Peer.to(server, EARLY.replace(b"/early", b"/none") % (1 << 40))
    await goes_on_until_reset(peer)


MIB = bytes(1024**2)
EARLY = POST.replace(b"/ ", b"/early ", 1) + b"content-length: %d\r\n\r\n"


async def goes_on_until_reset(peer: Peer) -> None:
    """Send at 50 MiB/s at most until the server resets the connection."""
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            while True:
                await peer.send(MIB)
                await asyncio.sleep(0.02)


def written_then_read(server: AsgiServer, size: int, head: bytes = EARLY) -> bytes:
    """The answer to a client that writes all of a request before it reads."""
    with socket.create_connection((server.host, server.port), timeout=30) as peer:
        peer.sendall(head % size + bytes(size))
        answer = b""
        while part := peer.recv(65_536):
            answer += part
    return answer


async def test_a_crowd_that_writes_before_it_reads_gets_its_early_answers() -> None:
    server = AsgiServer(APP)
    await server.start()
    with ThreadPoolExecutor(20) as threads:
        sends = [
            asyncio.get_running_loop().run_in_executor(threads, written_then_read, server, 8 * len(MIB))
            for _ in range(20)
        ]
        answers = await asyncio.gather(*sends)
    await server.stop()
    assert {(answer[:12], answer[-2:]) for answer in answers} == {(b"HTTP/1.1 413", b"no")}


@pytest.mark.parametrize(
    "head",
    [
        EARLY,
        EARLY.replace(b"host", b"connection: close\r\nhost"),
        EARLY.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["as usual", "close", "HTTP/1.0"],
)
async def test_each_kind_of_client_that_writes_before_it_reads_gets_its_answer(
    server: AsgiServer, head: bytes
) -> None:
    answer = await asyncio.to_thread(written_then_read, server, 8 * len(MIB), head)
    assert (answer[:12], answer[-2:]) == (b"HTTP/1.1 413", b"no")
    assert answer.lower().count(b"connection: close") == 1


@pytest.mark.parametrize(
    "bounds",
    [
        {"LINGER_S": 0.5},
        {"QUIET_S": 0.01},
        {"LINGER_BYTES": 4 * len(MIB)},
        {"LINGER_PACE": 1 << 40, "QUIET_S": 0.5},
    ],
    ids=lambda bounds: next(iter(bounds)),
)
async def test_the_rest_after_an_early_answer_is_read_within_bounds(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, float]
) -> None:
    endless = {"LINGER_S": float("inf"), "QUIET_S": float("inf"), "LINGER_BYTES": float("inf")}
    for name, most in {**endless, **bounds}.items():
        monkeypatch.setattr(connections, name, most)
    peer = await Peer.to(server, EARLY % (1 << 40))
    assert await peer.answer() == (413, "no")
    await goes_on_until_reset(peer)


async def test_one_sender_too_many_ends_the_oldest_that_goes_on(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGERING_AT_ONCE", 1)
    first, second = [await Peer.to(server, EARLY % (1 << 40)) for _ in range(2)]
    assert await first.answer() == await second.answer() == (413, "no")
    await goes_on_until_reset(first)
    for _ in range(10):
        await second.send(MIB)


async def test_a_sender_that_goes_on_after_an_early_answer_makes_room(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "AT_EASE_S", 0.0)
    sending = [await Peer.to(server, EARLY % (1 << 40)) for _ in range(4)]
    assert [await peer.answer() for peer in sending] == [(413, "no")] * 4
    assert await (await Peer.to(server, GET + b"\r\n")).answer() == (200, "0")
    await goes_on_until_reset(sending[0])


async def test_a_stop_ends_a_sender_that_goes_on_after_an_early_answer(
    server: AsgiServer, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await Peer.to(server, EARLY % (1 << 40))
    assert await peer.answer() == (413, "no")
    await server.stop()
    await goes_on_until_reset(peer)
    assert "Traceback" not in caplog.text
    assert "Cancel" not in caplog.text, "a stop waits for no rest"


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_sender_that_is_gone_after_an_early_answer_leaves_nothing_behind(
    server: AsgiServer, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    peer = await Peer.to(server, EARLY % (1 << 40))
    assert await peer.answer() == (413, "no")
    assert server._server is not None
    state = server._server.server_state
    assert len(state.connections) == len(state.tasks) == 1, "it waits for the rest of the request"
    peer.leave(end)
    async with asyncio.timeout(20):
        while state.connections or state.tasks:
            await asyncio.sleep(0.01)
    assert "Traceback" not in caplog.text


async def test_an_answer_that_nobody_reads_is_given_up(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 0.5)
    held = await Peer.to(server, GET.replace(b"/ ", b"/flood ", 1) + b"\r\n")
    assert server._server is not None
    async with asyncio.timeout(20):
        while not (open_ := server._server.server_state.connections):
            await asyncio.sleep(0.01)
        while open_:
            await asyncio.sleep(0.01)
    await held.end()


async def test_beyond_the_limit_the_longest_idle_one_makes_room(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "AT_EASE_S", 0.0)
    idle = []
    for _ in range(4):
        idle.append(await Peer.to(server, b"G"))
        await asyncio.sleep(0.02)
    assert await (await Peer.to(server, GET + b"\r\n")).answer() == (200, "0")
    await idle[0].end()


async def test_beyond_the_limit_of_work_a_connection_is_refused_with_a_reason(server: AsgiServer) -> None:
    working = [await Peer.to(server, POST + b"content-length: 1\r\n\r\n") for _ in range(4)]
    await asyncio.sleep(0.05)
    refused = [await Peer.to(server, GET + b"\r\n") for _ in range(40)]
    for peer in refused:
        assert await peer.answer() == (503, "busy")
        await peer.end()
    for peer in working:
        await peer.send(b"a")
        assert await peer.answer() == (200, "1")


async def test_a_stop_answers_who_has_not_sent_all_of_a_request(
    server: AsgiServer, caplog: pytest.LogCaptureFixture
) -> None:
    half = await Peer.to(server, POST + b"content-length: 2\r\n\r\na")
    flooded = await Peer.to(server, GET.replace(b"/ ", b"/flood ", 1) + b"\r\n")
    await asyncio.sleep(0.05)
    await server.stop()
    assert await half.answer() == (503, "stopping")
    await half.end()
    await flooded.end()
    assert "Traceback" not in caplog.text
