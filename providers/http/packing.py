"""Unpacks compressed answers in small steps.

The library's own decoders unpack each piece in one go, and 64 KiB of zeros that were packed twice are 60 GB.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import httpx2

from providers.http.room import TooLarge

STEP: Final = 256 * 1024  # bytes unpacked at a time

_WINDOW_BITS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def unpacked(packed: bytearray, encoding: str, *, max_bytes: int, whole: bool) -> bytearray:
    """The original of a body with this Content-Encoding, in lower case.

    Raises TooLarge once more than `max_bytes` came out. Raises httpx2.DecodingError for a broken body, unless less
    than the whole will do, and for an encoding, or a stack of them, that was not requested.
    """
    pieces, size = [], 0
    try:
        for piece in _pieces(packed, encoding):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise TooLarge
    except httpx2.DecodingError:
        if whole:
            raise
    return bytearray().join(pieces)  # one that grows takes an eighth more than it holds


def unpacked_size(packed: bytearray, encoding: str, *, max_bytes: int) -> int:
    """The size of the original, or of its good part. Raises TooLarge beyond `max_bytes`."""
    size = 0
    with suppress(httpx2.DecodingError):
        for piece in _pieces(packed, encoding):
            size += len(piece)
            if size > max_bytes:
                raise TooLarge
    return size


def _pieces(packed: bytearray, encoding: str) -> Iterator[bytes]:
    """The original in pieces of at most `STEP` bytes."""
    if encoding not in _WINDOW_BITS:
        raise httpx2.DecodingError("The answer is packed in a way that was not requested.")
    unpacker, view = zlib.decompressobj(_WINDOW_BITS[encoding]), memoryview(packed)
    for at in range(0, len(packed), STEP):
        chunk = bytes(view[at : at + STEP])
        while chunk and not unpacker.eof:
            try:
                yield unpacker.decompress(chunk, STEP)
            except zlib.error:
                raise httpx2.DecodingError("The answer's packing is broken.") from None
            chunk = unpacker.unconsumed_tail
    if packed and not unpacker.eof:
        raise httpx2.DecodingError("The answer ends in the middle of its packing.")
