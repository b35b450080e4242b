"""A body has its room before more of it is read, whatever its encoding; a wait for room costs no time."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from providers.errors import ProviderError
from providers.http.client import SMALL_BYTES, create_client, send_once
from providers.http.outside import OutsideError, download
from providers.http.room import holding, room_from, take_room, time_to_read

Serve = Callable[[Any], Any]
NOISE = random.Random(1).randbytes(300_000)


class Ledger:
    """A room that writes down what is held, and lets its takers wait while `full`."""

    def __init__(self) -> None:
        self.held = 0
        self.peak = 0
        self.room = asyncio.Event()
        self.room.set()
        self.waiting = asyncio.Event()

    async def take(self, size: int) -> None:
        self.waiting.set()
        await self.room.wait()
        self.held += size
        self.peak = max(self.peak, self.held)

    def give_back(self, size: int) -> None:
        self.held -= size


def app(body: bytes, status: int = 200, encoding: str | None = None) -> Any:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {} if encoding is None else {"content-encoding": encoding}
            await Response(body, status_code=status, headers=headers)(scope, receive, send)

    return answer


async def called(url: str, *, timeout_s: float = 10, max_bytes: int = 2 * SMALL_BYTES) -> int:
    async with create_client(url) as client:
        request = client.build_request("GET", url)
        return len((await send_once(client, request, timeout_s=timeout_s, max_bytes=max_bytes)).body)


@pytest.mark.parametrize(
    ("body", "encoding", "size"),
    [
        (NOISE, None, len(NOISE)),
        (b"{}", None, 2),
        (gzip.compress(bytes(SMALL_BYTES)), "gzip", SMALL_BYTES),
        (gzip.compress(bytes(SMALL_BYTES + 1)), "gzip", SMALL_BYTES + 1),
    ],
    ids=["plain", "tiny", "small when unpacked", "large when unpacked"],
)
async def test_an_answer_holds_what_it_has_in_memory(
    serve: Serve, body: bytes, encoding: str | None, size: int
) -> None:
    url, ledger = await serve(app(body, encoding=encoding)), Ledger()
    with room_from(lambda: ledger, free=0):
        assert await called(url) == size
    assert ledger.held == size


async def test_a_download_holds_what_it_has_in_memory(serve: Serve) -> None:
    url, ledger = await serve(app(NOISE)), Ledger()
    with room_from(lambda: ledger, free=0):
        assert await download(url, max_bytes=10**6, allow_hosts=["127.0.0.1"]) == NOISE
    assert ledger.held == len(NOISE)


async def test_what_is_not_kept_holds_nothing(serve: Serve) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield NOISE

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await StreamingResponse(pieces())(scope, receive, send)

    url, ledger = await serve(stream), Ledger()
    with room_from(lambda: ledger, free=0):
        with pytest.raises(ProviderError, match="larger"):
            await called(url)
        with pytest.raises(OutsideError, match="larger"):
            await download(url, max_bytes=10**6, allow_hosts=["127.0.0.1"])
    assert ledger.held == 0
    assert ledger.peak > len(NOISE)


async def test_a_body_is_read_no_further_than_there_is_room(serve: Serve) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += 1
            yield NOISE

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await StreamingResponse(pieces())(scope, receive, send)

    url, ledger = await serve(stream), Ledger()
    ledger.room.clear()
    with room_from(lambda: ledger, free=0):
        reading = asyncio.create_task(download(url, max_bytes=10**9, allow_hosts=["127.0.0.1"]))
    await ledger.waiting.wait()
    before = -1
    while sent != before:  # until the connection is full
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 400
    ledger.room.set()
    assert len(await reading) == 400 * len(NOISE)


@pytest.mark.parametrize("by", ["call", "download"])
async def test_a_wait_for_room_uses_up_no_time_of_an_answer(serve: Serve, by: str) -> None:
    url, ledger = await serve(app(NOISE)), Ledger()
    ledger.room.clear()
    with room_from(lambda: ledger, free=0):
        reading: asyncio.Task[Any] = asyncio.create_task(
            called(url, timeout_s=1.0)
            if by == "call"
            else download(url, max_bytes=10**6, allow_hosts=["127.0.0.1"], timeout_s=1.0)
        )
    await ledger.waiting.wait()
    done, _ = await asyncio.wait({reading}, timeout=1.5)
    assert not done, "its own limit is over, and it still waits"
    ledger.room.set()
    await reading


async def test_the_time_limit_holds_beside_the_waits() -> None:
    ledger = Ledger()

    async def late() -> None:
        async with time_to_read(0.05):
            await take_room(1)
            await asyncio.Event().wait()

    with room_from(lambda: ledger, free=0), pytest.raises(TimeoutError):
        await late()
    assert ledger.held == 1


async def test_pixels_are_held_only_while_they_are_decoded() -> None:
    ledger = Ledger()
    with room_from(lambda: ledger, free=0):
        async with holding(100):
            assert ledger.held == 100
    assert ledger.held == 0
