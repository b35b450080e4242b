"""A compressed answer takes no more memory than its reader allows, at any ratio of compression."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.errors import ErrorKind, ProviderError
from providers.http.asgi import AsgiServer
from providers.http.client import Answer, create_client, send_once
from providers.http.packing import unpacked, unpacked_size
from providers.http.room import TooLarge

MIB = 1024 * 1024


@cache
def zeros() -> bytes:
    """100 MiB of zeros, packed; made when it is needed, as each worker of a run imports every module."""
    return gzip.compress(bytes(100 * MIB))


async def answered(
    body: bytes, encoding: str, *, max_bytes: int = MIB, status: int = 200, timeout_s: float = 10
) -> Answer:
    """The client's reading of a provider's answer with these bytes under this Content-Encoding."""

    async def answer(request: Request) -> Response:
        assert request.headers["accept-encoding"] == "gzip"
        return Response(body, status_code=status, headers={"content-encoding": encoding})

    server = AsgiServer(Starlette(routes=[Route("/", answer)]), "127.0.0.1", 0)
    await server.start()
    client = create_client(server.url)
    try:
        request = client.build_request("GET", server.url)
        return await send_once(client, request, timeout_s=timeout_s, max_bytes=max_bytes)
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
    packed = zeros()
    tracemalloc.start()
    try:
        with pytest.raises(ProviderError, match="larger than 1048576 bytes") as caught:
            await answered(packed, "gzip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.kind is ErrorKind.BAD_RESPONSE
    assert peak < 5 * MIB


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd", "made-up"])
async def test_an_answer_packed_in_layers_or_without_request_is_not_unpacked(encoding: str) -> None:
    with pytest.raises(ProviderError, match="DecodingError") as caught:
        await answered(gzip.compress(zeros()), encoding)
    assert caught.value.kind is ErrorKind.AMBIGUOUS_SUBMIT


@pytest.mark.parametrize("body", [gzip.compress(bytes(4 * MIB))[:1000], b"not packed at all"])
async def test_a_broken_packing_loses_an_answer_and_not_a_refusal(body: bytes) -> None:
    with pytest.raises(ProviderError, match="DecodingError"):
        await answered(body, "gzip", max_bytes=8 * MIB)
    assert (await answered(body, "gzip", max_bytes=8 * MIB, status=429)).status == 429


async def test_an_empty_answer_needs_no_packing() -> None:
    assert (await answered(b"", "gzip")).body == b""


@given(body=st.binary(max_size=3000).map(lambda part: part * 400))
def test_what_was_packed_comes_out_whole_and_its_size_is_known_before(body: bytes) -> None:
    packed = bytearray(gzip.compress(body))
    assert unpacked(packed, "gzip", max_bytes=len(body), whole=True) == body
    assert unpacked_size(packed, "gzip", max_bytes=len(body)) == len(body)
    if body:
        with pytest.raises(TooLarge):
            unpacked_size(packed, "gzip", max_bytes=len(body) - 1)
