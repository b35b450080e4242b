"""Reads the body of a request: never more than allowed, never longer than it may take, never another type."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from typing import Any, Final

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from daemon.gateway.answering.problems import Problem
from pixmill.contract.entry import MAX_DEPTH

JSON_BYTES: Final = 2 * 1024**2
AT_ONCE_BYTES: Final = 64 * 1024  # what the loop itself reads
SILENT_S: Final = 20.0  # without a byte of the body for this time, the sender is given up
LEAST_PACE: Final = 4096  # bytes a second of a whole body, after those first seconds

JSON: Final = ("application/json",)
# After these the rest of the body is never read, so the connection cannot be used again.
CLOSE: Final = {"Connection": "close"}


async def read_body(request: Request, most: int, types: Collection[str]) -> bytes:
    """The whole body. Raises Problem: 415 for another type, 413 beyond `most` bytes, 408 for a silent sender."""
    check_type(request, types)
    announced_bytes(request, most)
    return b"".join([chunk async for chunk in chunks_of(request, most)])


def check_type(request: Request, types: Collection[str]) -> str:
    """The media type of the body. Raises Problem 415 unless it is one of `types`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in types:
        known = ", ".join(types)
        raise Problem(
            415, "unsupported_media_type", f"Send the body as {known}, and name that in Content-Type."
        )
    return kind


def announced_bytes(request: Request, most: int) -> int | None:
    """The announced length of the body, None without one. Raises Problem 413 beyond `most` bytes."""
    announced = request.headers.get("content-length")
    if announced is None:
        return None
    if int(announced) > most:
        raise too_large(most)
    return int(announced)


async def chunks_of(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Problem: 413 beyond `most` bytes, 408 for a slow sender, 400 for an early end."""
    size, chunks = 0, aiter(request.stream())
    clock = asyncio.get_running_loop().time
    began_s = clock()
    while True:
        try:
            async with asyncio.timeout_at(min(clock(), began_s + size / LEAST_PACE) + SILENT_S):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise _too_slow() from None
        except ClientDisconnect:
            raise Problem(400, "malformed", "The body ended early.") from None
        if chunk is None:
            return
        size += len(chunk)
        if size > most:
            raise too_large(most)
        yield chunk


def _too_slow() -> Problem:
    sentence = (
        f"The body came too slowly: {LEAST_PACE // 1024} KiB a second are the least, after {SILENT_S:.0f} s."
    )
    return Problem(408, "slow_body", sentence, headers=CLOSE)


def too_large(most: int) -> Problem:
    """The answer for a body beyond its limit."""
    limit = f"{most // 1024**2} MiB" if most >= 1024**2 else f"{most // 1024} KiB"
    return Problem(413, "too_large", f"The body may have at most {limit}.", headers=CLOSE)


async def read_object(request: Request, most: int = JSON_BYTES) -> dict[str, Any]:
    """The JSON object in the body. Raises Problem 400 with line and column for anything else."""
    return await object_in(await read_body(request, most, JSON))


async def object_in(data: bytes) -> dict[str, Any]:
    """As `parse_object`; other requests do not wait while a large body is read."""
    if len(data) <= AT_ONCE_BYTES:
        return parse_object(data)
    return await asyncio.to_thread(parse_object, data)


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; raises Problem 400 with line and column for anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        what = error.msg.split(":")[0]
        raise _malformed(f"The body is not JSON in UTF-8: {what}", error.lineno, error.colno) from None
    if not isinstance(value, dict):
        raise _malformed("The body must be a JSON object", 1, 1)
    if _is_deeper(value, MAX_DEPTH):
        raise _malformed(f"The body is nested deeper than {MAX_DEPTH} levels", *_place_below(data, MAX_DEPTH))
    return value


def _malformed(what: str, line: int, column: int) -> Problem:
    sentence = f"{what}, line {line}, column {column}."
    return Problem(400, "malformed", sentence, more={"line": line, "column": column})


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        below = (node.values() if isinstance(node, dict) else node for node in level)
        level = [each for nodes in below for each in nodes if isinstance(each, dict | list)]
        if not level:
            return False
    return True


# A text, a bracket that opens or closes, or the end of a line.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}\n]')


def _place_below(data: bytes, most: int) -> tuple[int, int]:
    """The line and the column of the first bracket below `most` levels."""
    depth, line, began = 0, 1, 0
    for mark in _MARK.finditer(data):
        match mark[0]:
            case b"{" | b"[":
                depth += 1
                if depth > most:
                    return line, len(data[began : mark.start()].decode("utf-8", "replace")) + 1
            case b"}" | b"]":
                depth -= 1
            case b"\n":
                line, began = line + 1, mark.end()
    return line, 1
