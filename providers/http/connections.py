"""Connections of an HTTP server that no sender can keep for nothing: slow, broken, oversized and too many ones.

uvicorn 0.54 waits for ever for the end of a request's headers and for a reader of an answer, answers an excess of
connections only once they send a whole request, and names no reason. h11 0.16 bounds the size of incomplete headers
(16 KiB), not the number of complete ones, and takes 20 us for each chunk of a body, however small.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from providers.http.parts import part_writer

HEADERS_S: Final = (
    15.0  # from the start of a connection, or its last answer, to the end of a request's headers
)
STALLED_S: Final = 60.0  # without one byte of an answer read
REFUSED_S: Final = 1.0  # for a connection beyond the limit to send something and to read why it is refused
HEADERS_BYTES: Final = 16 * 1024
MOST_HEADERS: Final = 100
AT_EASE_S: Final = 1.0  # a connection that is idle for longer makes room for a new one

# The rest of a request after an early answer is thrown away, so that its sender can read that: within these bounds.
LINGER_S: Final = 60.0
QUIET_S: Final = 5.0  # a sender that pauses has read the answer, or has gone
LINGER_PACE: Final = 4096  # bytes a second, after the first QUIET_S
LINGER_BYTES: Final = 1024**3  # of each connection
LINGERING_AT_ONCE: Final = 64  # connections; one more ends the oldest of them

REFUSED_AT_ONCE: Final = 32  # answers of refusals; further connections are closed without one

# Chunks that are this small on average are no way to send a body; one that has fewer of them is not looked at.
SMALL_CHUNK_BYTES: Final = 16
CHUNKS_IN_ANY_CASE: Final = 1000

_CLOSE: Final = (b"connection", b"close")
_REFUSALS: Final = {
    "malformed": (400, "This is no HTTP/1.1 request."),
    "slow_headers": (408, f"The headers of a request must be complete within {HEADERS_S:.0f} s."),
    "too_large": (
        431,
        f"A request may have {MOST_HEADERS} headers of {HEADERS_BYTES // 1024} KiB together.",
    ),
    "busy": (503, "All connections are in use; send it again in a moment."),
    "stopping": (503, "This server stops, and did not wait for the end of the request; send it again."),
}
AGAIN_S: Final = 2


class Connection(h11.Connection):
    """The parser of one connection. `refusal` is the code of the answer for what it could not read."""

    refusal = "malformed"

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEADERS_BYTES)
        self._chunks = 0
        self._bytes = 0

    def next_event(self) -> Any:
        """As h11's. Raises RemoteProtocolError also for too many headers, two lengths and a body in crumbs."""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._chunks = self._bytes = 0
                _check_headers(event)
            elif isinstance(event, h11.Data):
                self._check_chunks(event)
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                self.refusal = "too_large"
            raise
        return event

    def _check_chunks(self, event: h11.Data) -> None:
        self._chunks += event.chunk_start
        self._bytes += len(event.data)
        if self._chunks > CHUNKS_IN_ANY_CASE and self._bytes < SMALL_CHUNK_BYTES * self._chunks:
            raise h11.RemoteProtocolError("The chunks of the body are too small")


def _check_headers(request: h11.Request) -> None:
    size = sum(len(name) + len(value) for name, value in request.headers)
    if len(request.headers) > MOST_HEADERS or size > HEADERS_BYTES:
        raise h11.RemoteProtocolError("Too many headers", error_status_hint=431)
    names = {name for name, _ in request.headers}
    if {b"content-length", b"transfer-encoding"} <= names:
        # A proxy before us may believe the other one, and then a body becomes a request (RFC 9112, 6.1).
        raise h11.RemoteProtocolError("Two lengths of one body")


@dataclass(slots=True)
class _Rest:
    """The rest of a request that has its answer: when it began to be thrown away, when some came last, and its size."""

    began: float
    came: float
    size: int = 0

    def add(self, size: int, now: float) -> None:
        self.size += size
        self.came = now

    def is_over(self, now: float) -> bool:
        """Whether it lasts too long, pauses, is too large or comes too slowly."""
        lasts_s = now - self.began
        is_slow = self.size < LINGER_PACE * (lasts_s - QUIET_S)
        return lasts_s > LINGER_S or now - self.came > QUIET_S or self.size > LINGER_BYTES or is_slow


class Guarded(H11Protocol):
    """A connection of a server. The server calls `look` about once a second; `config.most_connections` is its limit."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.conn: Connection = Connection()
        self.app = partial(self._run, self.app)
        self.most: int | None = getattr(self.config, "most_connections", None)
        self.refused = False
        self._answered = False  # a refused one
        self._is_last = False  # whether the connection ends with the answer under way
        self._rest: _Rest | None = None
        self.idle_since = self.loop.time()
        self._unread = 0
        self._unread_since = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def lingers(self) -> bool:
        """Whether its answer is sent, and its sender still sends."""
        return self._rest is not None and not self.transport.is_closing()

    def connection_made(self, transport: Any) -> None:
        """As uvicorn's. Beyond the limit, the one that was idle longest leaves; if all work, the new one is refused."""
        super().connection_made(transport)
        if self.most is None or len(self.connections) <= self.most or self._makes_room():
            return
        self.refused = True
        if len(self.connections) > self.most + REFUSED_AT_ONCE:
            self._refuse("busy")

    def data_received(self, data: bytes) -> None:
        """As uvicorn's; what comes on a refused connection, or after its last answer, is thrown away."""
        if self._rest is not None:
            self._rest.add(len(data), self.loop.time())
            self._end_rest()
        elif not self.refused:
            super().data_received(data)
        elif not self.transport.is_closing() and not self._answered:
            self._answered = True
            self.transport.write(_raw_refusal("busy"))
            self.transport.write_eof()

    def on_response_complete(self) -> None:
        """As uvicorn's; from now on the connection is idle."""
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def shutdown(self) -> None:
        """As uvicorn's; a stop does not wait for the rest of a request that has its answer."""
        if self._rest is not None:
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, _: str) -> None:
        """Answer what is no request, unless an answer is under way: then the connection ends without a word."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(self.conn.refusal)
        else:
            self.transport.close()

    def look(self) -> None:
        """End the connection if its client keeps it for nothing."""
        now = self.loop.time()
        idle_s = now - self.idle_since
        if self._is_stalled(now) or (self.refused and idle_s > REFUSED_S):
            self.transport.abort()
        elif self._rest is not None:
            self._end_rest()
        elif self.is_idle and idle_s > HEADERS_S and not self.transport.is_closing():
            begun = self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]
            self._refuse("slow_headers") if begun else self.transport.close()

    def _is_stalled(self, now: float) -> bool:
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread != self._unread:
            self._unread, self._unread_since = unread, now
            return False
        return now - self._unread_since > STALLED_S

    def _makes_room(self) -> bool:
        guarded = (one for one in self.connections if isinstance(one, Guarded) and not one.refused)
        idle = (one for one in guarded if one.is_idle or one.lingers)
        open_ = [one for one in idle if one is not self and not one.transport.is_closing()]
        first = min(open_, key=lambda one: one.idle_since, default=None)
        if first is None or self.loop.time() - first.idle_since < AT_EASE_S:
            return False
        first.transport.abort()
        return True

    async def _run(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Run the app. A stop cancels what lasts beyond its grace, which is no error of the app."""
        cycle = self.cycle
        scope["extensions"] = part_writer(cycle)
        try:
            await app(scope, receive, partial(self._send, send) if cycle.more_body else send)
            while self._rest is not None and not cycle.disconnected:
                cycle.message_event.clear()
                await cycle.message_event.wait()
        except asyncio.CancelledError:
            if cycle.response_started:
                cycle.disconnected = True
                self.transport.close()
                return
            status, headers, body = _refusal("stopping")
            pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": pairs})
            await send({"type": "http.response.body", "body": body})

    async def _send(self, send: Any, message: Any) -> None:
        """As uvicorn's `send`, for an answer that may be complete before its request is.

        A connection that is closed on unread bytes is reset, and many clients then lose the answer: they write a whole
        request before they read. So the end of the answer ends our side alone, and the rest of the request is read.
        """
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            self._is_last = self.cycle.more_body and any(name == b"content-length" for name, _ in headers)
            if self._is_last and _CLOSE not in headers:
                message = {**message, "headers": [*headers, _CLOSE]}
        elif self._is_last and not message.get("more_body") and self.cycle.more_body:
            await send({**message, "more_body": True})
            if not self.transport.is_closing():
                self._linger()
            return
        await send(message)

    def _linger(self) -> None:
        """End our side alone, and throw away what still comes."""
        lingering = [one for one in self.connections if isinstance(one, Guarded) and one.lingers]
        if len(lingering) >= LINGERING_AT_ONCE:
            min(lingering, key=lambda one: one.idle_since).transport.abort()
        self.idle_since = self.loop.time()
        self._rest = _Rest(self.idle_since, self.idle_since)
        self.transport.write_eof()
        self.flow.resume_reading()

    def _end_rest(self) -> None:
        if self._rest is not None and self._rest.is_over(self.loop.time()):
            self.transport.abort()

    def _refuse(self, code: str) -> None:
        self.transport.write(_raw_refusal(code))
        self.transport.close()


def _refusal(code: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer that no app makes."""
    status, sentence = _REFUSALS[code]
    problem = {
        "type": f"urn:pixmill:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": sentence,
        "code": code,
    }
    headers = {
        "content-type": "application/problem+json",
        "cache-control": "no-store",
        "x-request-id": secrets.token_hex(8),
        "connection": "close",
    }
    if status == 503:
        problem["retry_after"] = AGAIN_S
        headers["retry-after"] = str(AGAIN_S)
    body = json.dumps(problem).encode()
    return status, {**headers, "content-length": str(len(body))}, body


def _raw_refusal(code: str) -> bytes:
    status, headers, body = _refusal(code)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
