"""A compressed answer takes no more memory than its reader allows, at any ratio of compression."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Mapping

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.errors import ErrorKind, ProviderError
from providers.http.asgi import AsgiServer
from providers.http.client import STEP, Answer, _unpacked, create_client, send_once

MIB = 1024 * 1024
ZEROS = gzip.compress(bytes(100 * MIB))


async def answered(body: bytes, encoding: str, *, max_bytes: int = MIB, status: int = 200) -> Answer:
    """The client's reading of a provider's answer with these bytes under this Content-Encoding."""

    async def answer(request: Request) -> Response:
        assert request.headers["accept-encoding"] == "gzip"
        return Response(body, status_code=status, headers={"content-encoding": encoding})

    server = AsgiServer(Starlette(routes=[Route("/", answer)]), "127.0.0.1", 0)
    await server.start()
    client = create_client(server.url)
    try:
        return await send_once(
            client, client.build_request("GET", server.url), timeout_s=10, max_bytes=max_bytes
        )
    finally:
        await client.aclose()
        await server.stop()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes), ("GZIP", gzip.compress)],
)
async def test_a_packed_answer_is_read_as_its_original(encoding: str, pack: type[bytes]) -> None:
    body = b'{"data":[]}' * 50_000
    assert (await answered(pack(body), encoding, max_bytes=2 * MIB)).body == body


async def test_an_answer_that_grows_past_the_cap_is_refused_before_it_has_grown() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProviderError, match="larger than 1048576 bytes") as caught:
            await answered(ZEROS, "gzip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.kind is ErrorKind.BAD_RESPONSE
    assert peak < 5 * MIB


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd", "made-up"])
async def test_an_answer_packed_in_layers_or_without_request_is_not_unpacked(encoding: str) -> None:
    with pytest.raises(ProviderError, match="DecodingError") as caught:
        await answered(gzip.compress(ZEROS), encoding)
    assert caught.value.kind is ErrorKind.AMBIGUOUS_SUBMIT


@pytest.mark.parametrize("body", [ZEROS[:1000], b"not packed at all"])
async def test_a_broken_packing_loses_an_answer_and_not_a_refusal(body: bytes) -> None:
    with pytest.raises(ProviderError, match="DecodingError"):
        await answered(body, "gzip", max_bytes=8 * MIB)
    assert (await answered(body, "gzip", max_bytes=8 * MIB, status=429)).status == 429


async def test_an_empty_answer_needs_no_packing() -> None:
    assert (await answered(b"", "gzip")).body == b""


class _Pieces(httpx2.AsyncByteStream):
    def __init__(self, body: bytes, size: int) -> None:
        self._pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def __aiter__(self):  # type: ignore[no-untyped-def]  # as the library's own
        for piece in self._pieces:
            yield piece


@given(body=st.binary(max_size=3000).map(lambda part: part * 400), size=st.integers(7, 5000))
async def test_however_the_bytes_arrive_no_piece_is_larger_than_a_step(body: bytes, size: int) -> None:
    headers: Mapping[str, str] = {"content-encoding": "gzip"}
    response = httpx2.Response(200, headers=headers, stream=_Pieces(gzip.compress(body), size))
    pieces = [piece async for piece in _unpacked(response)]
    assert b"".join(pieces) == body
    assert max(map(len, pieces), default=0) <= STEP
