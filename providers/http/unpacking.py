"""Reads a compressed answer in small steps, so that no answer can be larger in memory than its reader allows.

The client's own decoders unpack each piece that arrives in one go: 64 KiB of zeros packed twice are 60 GB.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Final

import httpx2

ACCEPTED: Final = "gzip"  # what is asked for; `deflate` is understood as well
STEP: Final = 256 * 1024  # bytes unpacked at a time

_WINDOW_BITS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


async def unpacked(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body of a response that is being streamed, in pieces of at most `STEP` bytes where it is compressed.

    Raises httpx2.DecodingError for a broken body and for an encoding that was not asked for; several on top of each
    other count as such.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if encoding not in _WINDOW_BITS:
        raise httpx2.DecodingError("The answer is packed in a way that was not asked for.")
    unpacker, empty = zlib.decompressobj(_WINDOW_BITS[encoding]), True
    async for chunk in response.aiter_raw():
        while chunk and not unpacker.eof:
            try:
                piece = unpacker.decompress(chunk, STEP)
            except zlib.error:
                raise httpx2.DecodingError("The answer's packing is broken.") from None
            chunk, empty = unpacker.unconsumed_tail, False
            if piece:
                yield piece
    if not unpacker.eof and not empty:
        raise httpx2.DecodingError("The answer ends in the middle of its packing.")
