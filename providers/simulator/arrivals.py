"""When requests arrived, by the kernel's stamps: a provider counts what reaches it, also while its own loop is busy.

On a machine with too much to do this process comes to its connections late, and to some later than to others. By its
own clock, calls that kept their distance would seem to come too close, and those that came too close to have kept it.
Linux stamps what a connection receives before any process is run for it (SO_TIMESTAMPNS, see socket(7)).
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
_stamps_s: dict[Address, float] = {}  # of each connection's newest bytes, as time.monotonic() would have it


class StampedSocket(socket.socket):
    """A listener, or a connection that it has accepted, whose received bytes are stamped where the system can do it."""

    _peer: Address | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """As socket.accept, but what it returns is stamped as well."""
        connection, address = super().accept()
        stamped = StampedSocket(fileno=connection.detach())
        stamped._peer = address[:2]
        if sys.platform == "linux":
            stamped.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        return stamped, address

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As socket.recv; this is what asyncio's own event loop calls, and uvloop does not."""
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


def _wall_clock_ahead_s() -> float:
    """How far the clock of the stamps is ahead of the monotonic one, by the quickest of a few looks at both.

    Between two looks this process may stand still, and all of that would be taken for the distance.
    """
    looks = []
    for _ in range(4):
        before_s, wall_s, after_s = time.monotonic(), time.time(), time.monotonic()
        looks.append((after_s - before_s, wall_s - (before_s + after_s) / 2))
    return min(looks)[1]


class Arrivals:
    """What `clock` says, but within a request that is handled the time at which its last byte arrived.

    Without a stamp, and for another clock than the monotonic one that stamps are told by, it is the clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app`, with its requests' arrivals known."""

        async def known(scope: Scope, receive: Receive, send: Send) -> None:
            client = scope.get("client")
            _client.set(None if client is None else (client[0], client[1]))
            await app(scope, receive, send)

        return known

    def now_s(self) -> float:
        """The arrival of the request that is being handled; without one, the time."""
        client = _client.get()
        if client is None or self._clock is not time.monotonic:
            return self._clock()
        return _stamps_s.get(client, self._clock())
