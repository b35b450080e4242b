"""Room in memory for what arrives: a body is read, and unpacked, only as far as its process has room.

A run names the room of its call with `room_from`; without that, everything has room. Until there is room the
rest of a body waits in its connection, and that wait uses up no time limit of `time_to_read`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Protocol

import httpx2

# Sixty-four of them are 16 MiB.
FREE_BYTES: Final = 256 * 1024


class Room(Protocol):
    """The room of one call, in bytes."""

    async def take(self, size: int) -> None:
        """Wait for `size` more bytes, and hold them."""

    def give_back(self, size: int) -> None:
        """Free `size` of the bytes that are held."""


class TooLarge(Exception):  # noqa: N818 - the caller makes its error of it
    """A body, or its original, is larger than its reader allows."""


class _Endless:
    async def take(self, size: int) -> None:
        """Everything has room."""

    def give_back(self, size: int) -> None:
        """Nothing was held."""


_ENDLESS = _Endless()
_room: ContextVar[Room | None] = ContextVar("room", default=None)


def _here() -> Room:
    return _room.get() or _ENDLESS


class _Later:
    """A room that is made when something large needs it; what is small has room everywhere."""

    __slots__ = ("_free", "_make", "_room")

    def __init__(self, make: Callable[[], Room], free: int) -> None:
        self._make = make
        self._free = free
        self._room: Room | None = None

    async def take(self, size: int) -> None:
        """See Room."""
        if size > self._free:
            self._room = self._room or self._make()
            await self._room.take(size)

    def give_back(self, size: int) -> None:
        """See Room."""
        if size > self._free and self._room is not None:
            self._room.give_back(size)


class room_from:  # noqa: N801 - used like a function
    """Let all that is read and decoded in this block, and in the tasks that it starts, have its room from `make()`.

    What has at most `free` bytes needs none.
    """

    # No generators here and in `time_to_read`: each call that waits for its provider holds these blocks open.
    __slots__ = ("_later", "_token")

    def __init__(self, make: Callable[[], Room], *, free: int = FREE_BYTES) -> None:
        self._later = _Later(make, free)
        self._token: Token[Room | None] | None = None

    def __enter__(self) -> None:
        self._token = _room.set(self._later)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _room.reset(self._token)


@asynccontextmanager
async def holding(size: int) -> AsyncIterator[None]:
    """Hold `size` bytes within the block."""
    room = _here()
    await room.take(size)
    try:
        yield
    finally:
        room.give_back(size)


async def take_room(size: int) -> None:
    """Wait for `size` more bytes, which the call holds until its room is given back as a whole."""
    await _here().take(size)


class time_to_read:  # noqa: N801 - used like a function
    """As `asyncio.timeout`; a wait for room within the block does not count."""

    __slots__ = ("_limit", "_token")

    def __init__(self, seconds: float) -> None:
        self._limit = asyncio.timeout(seconds)
        self._token: Token[Room | None] | None = None

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._token = _room.set(_Paused(_here(), self._limit))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _room.reset(self._token)
        await self._limit.__aexit__(kind, error, trace)


async def read_into(body: bytearray, response: httpx2.Response, max_bytes: int) -> None:
    """Append the rest of a response to `body` as it was sent; the room stays held unless this fails.

    Raises TooLarge beyond `max_bytes`, and the errors of the client; `body` then has what came before.
    """
    room, start = _here(), len(body)
    declared = response.headers.get("content-length", "")
    size = int(declared) if declared.isdigit() else 0
    _check_size(size, max_bytes)
    # As a whole where the size is known: answers that grow in step would fill the room with halves.
    await room.take(size)
    taken = size
    try:
        # Raw, so that a compressed answer cannot grow past the cap while it is unpacked.
        async for chunk in response.aiter_raw():
            body += chunk
            _check_size(len(body), max_bytes)
            if (more := len(body) - start - taken) > 0:
                await room.take(more)
                taken += more
    except BaseException:
        room.give_back(taken)
        raise


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLarge


class _Paused:
    """A room whose waits do not count for a time limit."""

    __slots__ = ("_limit", "_room")

    def __init__(self, room: Room, limit: asyncio.Timeout) -> None:
        self._room = room
        self._limit = limit

    async def take(self, size: int) -> None:
        """See Room."""
        ends_at, clock = self._limit.when(), asyncio.get_running_loop().time
        began = clock()
        self._limit.reschedule(None)
        try:
            await self._room.take(size)
        finally:
            self._limit.reschedule(None if ends_at is None else ends_at + clock() - began)

    def give_back(self, size: int) -> None:
        """See Room."""
        self._room.give_back(size)
