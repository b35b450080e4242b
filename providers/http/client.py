"""The HTTP client that providers share: sends a request exactly once and reports how far it got.

A reply is read only as far as there is room (`room`). A compressed one is unpacked once it is here, right before its
document is read. Nothing is awaited between, so one document at a time needs more than its reply.
"""

from __future__ import annotations

import logging
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

import anyio.lowlevel
import httpx2

from providers.base import NO_HOOKS, CallHooks
from providers.errors import ErrorKind, ProviderError
from providers.http.faults import PROXY_WANTS_LOGIN, login_refused, why
from providers.http.packing import unpacked, unpacked_size
from providers.http.proxies import proxy_for
from providers.http.room import TooLarge, read_into, take_room, time_to_read
from providers.http.tls import tls_context
from providers.lack import lack_of

MAX_ANSWER_BYTES = 96 * 1024 * 1024  # a 4096 x 4096 PNG in base64, and room
SMALL_BYTES = 8 * 1024 * 1024  # answers up to this size are unpacked at once, and then have their room

# A server that closes a connection while a paid request is written leaves its outcome unknown, so these are given up
# before a server would close them. A request may wait half a second more for its slot on an open one.
PAID_IDLE_S, MOST_PAID_IDLE = 2.0, 100
# A request that costs nothing, such as a poll or a download, is sent again.
FREE_IDLE_S, MOST_FREE_IDLE = 30.0, 32

_transports: weakref.WeakSet[httpx2.AsyncHTTPTransport] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that was read to its end. A refusal (status >= 400) may be incomplete."""

    status: int
    headers: httpx2.Headers
    body: bytearray = field(repr=False)

    @property
    def accepted(self) -> bool:
        """Whether the status is any one of success: gateways also send 201 and 202."""
        return 200 <= self.status < 300

    @property
    def rate_headers(self) -> dict[str, str]:
        """The headers about rate limits, with the date of the reply; no others."""
        found = {name: value for name, value in self.headers.items() if "ratelimit" in name.lower()}
        return found | {"date": self.headers["date"]} if found and "date" in self.headers else found


class Client(httpx2.AsyncClient):
    """The library's client, which makes requests. `send_once` sends them by the transport alone: no cookie is kept."""

    def __init__(self, transport: httpx2.AsyncHTTPTransport) -> None:
        headers = {"User-Agent": "pixmill", "Accept-Encoding": "gzip"}
        super().__init__(transport=transport, follow_redirects=False, trust_env=False, headers=headers)
        self.transport = transport


def create_client(base_url: str, *, paid: bool = True) -> Client:
    """A client for one provider account. It follows no redirects: they would carry the credential elsewhere.

    The environment names its proxy; raises ValueError with a sentence if that cannot be used. Without `paid` it is for
    requests that cost nothing, and keeps its connections longer. Quotas limit the calls, so the pool is larger than
    any quota.
    """
    _quiet_url_logging()
    idle = (PAID_IDLE_S, MOST_PAID_IDLE) if paid else (FREE_IDLE_S, MOST_FREE_IDLE)
    return Client(create_transport(proxy_for(httpx2.URL(base_url)), *idle))


def create_transport(proxy: httpx2.Proxy | None, idle_s: float, most_idle: int) -> httpx2.AsyncHTTPTransport:
    """Connections that later requests use again; `most_idle` of them wait for these, up to `idle_s`."""
    limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=most_idle, keepalive_expiry=idle_s)
    transport = httpx2.AsyncHTTPTransport(verify=tls_context(), trust_env=False, proxy=proxy, limits=limits)
    _transports.add(transport)
    return transport


async def drop_idle_connections() -> int:
    """Close the idle connections of all accounts, which gives their descriptors back; returns how many there were."""
    pools = [transport._pool for transport in _transports]  # noqa: SLF001 - the library has no public way to them
    idle = [connection for pool in pools for connection in pool.connections if connection.is_idle()]
    dropped = 0
    for connection in idle:
        # While an earlier one was closed, this one may have begun to carry a paid request.
        if connection.is_idle():
            await connection.aclose()
            dropped += 1
    return dropped


async def warm_up() -> None:
    """Load what the HTTP stack loads at its first call.

    That takes 50 ms. Without this the first calls of a process would arrive late compared with the next ones, which is
    enough to put one call too many into a provider's window.
    """
    await anyio.lowlevel.checkpoint()


async def send_once(
    client: Client,
    request: httpx2.Request,
    *,
    timeout_s: float,
    lost: ErrorKind = ErrorKind.AMBIGUOUS_SUBMIT,
    max_bytes: int = MAX_ANSWER_BYTES,
    hooks: CallHooks = NO_HOOKS,
) -> Answer:
    """Send `request` once, within `timeout_s` in all.

    Raises ProviderError: `network_unsent` if no byte of the request left, else `lost` (calls that cost nothing, such as
    polls, pass `poll_error`). Cancelling the caller propagates as CancelledError.
    """
    progress = _Progress(hooks)
    request.extensions = {
        **request.extensions,
        "trace": progress.trace,
        # Reads and writes have no timers of their own: none could end later than the whole.
        "timeout": {"connect": min(10.0, timeout_s), "pool": min(10.0, timeout_s)},
    }
    host = request.url.host
    try:
        async with time_to_read(timeout_s):
            response, packed = await _received(client, request, max_bytes)
        if response.status_code == PROXY_WANTS_LOGIN:
            raise _unreached(lost, host, login_refused(_proxy(request)), "passed on")
        body = await _unpacked(response, packed, max_bytes)
        return Answer(response.status_code, response.headers, body)
    except TooLarge:
        kind = ErrorKind.BAD_RESPONSE if lost is ErrorKind.AMBIGUOUS_SUBMIT else lost
        raise ProviderError(kind, f"{host} sent an answer larger than {max_bytes} bytes.") from None
    except TimeoutError:
        raise _lost(progress, lost, host, f"no complete answer within {timeout_s:g} s") from None
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        if (lack := lack_of(error)) is not None:
            await drop_idle_connections()
        raise _lost(progress, lost, host, lack or why(error, _proxy(request))) from None


async def _received(
    client: Client, request: httpx2.Request, max_bytes: int
) -> tuple[httpx2.Response, bytearray]:
    """The response and its body as it was sent; raises TooLarge."""
    response = await client.transport.handle_async_request(request)
    body = bytearray()
    try:
        await read_into(body, response, max_bytes)
    except httpx2.TransportError:
        if response.status_code < 400:
            raise
    finally:
        await response.aclose()
    return response, body


async def _unpacked(response: httpx2.Response, packed: bytearray, max_bytes: int) -> bytearray:
    """The body of a response in its original size, once it has room. Raises TooLarge, DecodingError."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return packed
    # A refusal stays one even if the rest of its explanation is lost.
    whole = response.status_code < 400
    try:
        body = unpacked(packed, encoding, max_bytes=min(max_bytes, SMALL_BYTES), whole=whole)
    except TooLarge:
        size = unpacked_size(packed, encoding, max_bytes=max_bytes)
    else:
        await take_room(max(0, len(body) - len(packed)))
        return body
    await take_room(max(0, size - len(packed)))
    return unpacked(packed, encoding, max_bytes=max_bytes, whole=whole)


class _Progress:
    """Follows a request through the transport, and calls the hooks on its way."""

    __slots__ = ("_connecting_at", "_hooks", "_rtt_s", "sent")

    def __init__(self, hooks: CallHooks) -> None:
        self.sent = False
        self._hooks = hooks
        self._connecting_at = 0.0
        self._rtt_s: float | None = None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith("connect_tcp.started"):
            self._connecting_at = time.monotonic()
        elif event.endswith("connect_tcp.complete"):
            self._rtt_s = time.monotonic() - self._connecting_at
        # CONNECT only opens a way to the provider through a proxy.
        elif event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            if self._hooks.before_send is not None:
                await self._hooks.before_send(self._rtt_s)
            self.sent = True
        elif (
            event.endswith("send_request_body.complete") and self.sent and self._hooks.after_send is not None
        ):
            self._hooks.after_send()


def _lost(progress: _Progress, lost: ErrorKind, host: str, what: str) -> ProviderError:
    if not progress.sent:
        return _unreached(lost, host, what)
    if lost is ErrorKind.AMBIGUOUS_SUBMIT:
        return ProviderError(lost, f"The request was sent to {host}, but its answer was lost ({what}).")
    return ProviderError(lost, f"{host} did not answer ({what}).")


def _unreached(lost: ErrorKind, host: str, what: str, verb: str = "sent") -> ProviderError:
    kind = ErrorKind.NETWORK_UNSENT if lost is ErrorKind.AMBIGUOUS_SUBMIT else lost
    return ProviderError(kind, f"{host} could not be reached ({what}); nothing was {verb}.")


def _proxy(request: httpx2.Request) -> httpx2.Proxy | None:
    return proxy_for(request.url)


def _quiet_url_logging() -> None:
    # At INFO the client logs every URL, and URLs can carry signatures.
    for name in ("httpx2", "httpcore2"):
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(logging.WARNING)
