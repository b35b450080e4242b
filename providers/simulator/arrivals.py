"""Arrival times of requests by the kernel's stamps: a real provider counts arrivals even while a loop is busy.

On a busy machine this process reads its connections late, some later than others. By its own clock, calls at the right
distance could seem too close, and close calls far enough. Linux stamps received bytes before any process runs
(SO_TIMESTAMPNS, see socket(7)).
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from contextvars import ContextVar
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from providers.simulator.quotas import Clock

_SO_TIMESTAMPNS: Final = 35  # of linux/asm-generic/socket.h; Python has no name for it
_TIMESPEC: Final = struct.Struct("qq")
_ANCILLARY_BYTES: Final = 64

Address = tuple[str, int]

_client: ContextVar[Address | None] = ContextVar("client", default=None)
_stamps_s: dict[Address, float] = {}  # of each connection's newest bytes, on the clock of time.monotonic()


class StampedSocket(socket.socket):
    """A listener, or a connection that it accepted; received bytes are stamped if the system can do it."""

    _peer: Address | None = None

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """As socket.socket. The listener has the option too, so that bytes which come before `accept` are stamped."""
        super().__init__(*arguments, **more)
        if sys.platform == "linux":
            self.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def accept(self) -> tuple[socket.socket, Any]:
        """As socket.accept, with a stamped connection."""
        connection, address = super().accept()
        stamped = StampedSocket(fileno=connection.detach())
        stamped._peer = address[:2]
        return stamped, address

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As socket.recv. The event loop of asyncio calls this; uvloop does not."""
        data, ancillary, _, _ = self.recvmsg(bufsize, _ANCILLARY_BYTES, flags)
        for level, kind, stamp in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and self._peer is not None:
                seconds, nanos = _TIMESPEC.unpack(stamp)
                _stamps_s[self._peer] = min(time.monotonic(), seconds + nanos / 1e9 - _wall_clock_ahead_s())
        return data

    def close(self) -> None:
        """As socket.close."""
        if self._peer is not None:
            _stamps_s.pop(self._peer, None)
        super().close()


def stamp_s(peer: Address) -> float | None:
    """When the newest bytes of a stamped connection arrived, by time.monotonic(); None without a stamp."""
    return _stamps_s.get(peer)


def _wall_clock_ahead_s() -> float:
    """How far the clock of the stamps is ahead of the monotonic one: the quickest of a few readings of both.

    If this process stands still between two readings, the pause would count as distance.
    """
    looks = []
    for _ in range(4):
        before_s, wall_s, after_s = time.monotonic(), time.time(), time.monotonic()
        looks.append((after_s - before_s, wall_s - (before_s + after_s) / 2))
    return min(looks)[1]


class Arrivals:
    """A clock: inside a request it returns the arrival of the request's last byte.

    Without a stamp, and for any clock but the monotonic one, it is `clock`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app`, with the arrivals of its requests."""

        async def known(scope: Scope, receive: Receive, send: Send) -> None:
            client = scope.get("client")
            _client.set(None if client is None else (client[0], client[1]))
            await app(scope, receive, send)

        return known

    def now_s(self) -> float:
        """The arrival of the request in hand; without one, the time."""
        client = _client.get()
        if client is None or self._clock is not time.monotonic:
            return self._clock()
        stamp = stamp_s(client)
        return self._clock() if stamp is None else stamp
