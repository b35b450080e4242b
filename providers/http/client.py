"""The HTTP client that providers share: sends a request exactly once and reports how far it got.

Compressed replies are unpacked in small steps. The library's own decoders unpack each piece in one go, and 64 KiB of
zeros that were packed twice are 60 GB.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
import weakref
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import anyio.lowlevel
import httpx2

from providers.base import NO_HOOKS, CallHooks
from providers.errors import ErrorKind, ProviderError
from providers.http.tls import tls_context
from providers.lack import lack_of

MAX_ANSWER_BYTES = 96 * 1024 * 1024  # a 4096 x 4096 PNG in base64, and room
STEP: Final = 256 * 1024  # bytes unpacked at a time

_clients: weakref.WeakSet[httpx2.AsyncClient] = weakref.WeakSet()
_WINDOW_BITS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that was read to its end. A refusal (status >= 400) may be incomplete."""

    status: int
    headers: httpx2.Headers
    body: bytes = field(repr=False)

    @property
    def accepted(self) -> bool:
        """Whether the status is any one of success: gateways also send 201 and 202."""
        return 200 <= self.status < 300

    @property
    def rate_headers(self) -> dict[str, str]:
        """The headers about rate limits, with the date of the reply; no others."""
        found = {name: value for name, value in self.headers.items() if "ratelimit" in name.lower()}
        return found | {"date": self.headers["date"]} if found and "date" in self.headers else found


def create_client(base_url: str) -> httpx2.AsyncClient:
    """A client for one provider account. It follows no redirects: they would carry the credential elsewhere.

    Quotas limit the calls, so the pool is larger than any quota. Idle connections are closed before a server would
    close them: if it does so while a paid request is written, the outcome is unknown. A request may wait half a second
    for its slot on an open connection.
    """
    _quiet_url_logging()
    client = httpx2.AsyncClient(
        verify=tls_context(),
        timeout=httpx2.Timeout(60.0, connect=10.0, pool=10.0),
        limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=2.0),
        follow_redirects=False,
        trust_env=not _is_loopback(base_url),
        headers={"User-Agent": "pixmill", "Accept-Encoding": "gzip"},
    )
    _clients.add(client)
    return client


async def drop_idle_connections() -> int:
    """Close the idle connections of all accounts, which gives their descriptors back; returns how many there were."""
    # The library has no public way to them.
    transports = [each for client in _clients for each in (client._transport, *client._mounts.values())]  # noqa: SLF001
    pools = [each._pool for each in transports if isinstance(each, httpx2.AsyncHTTPTransport)]  # noqa: SLF001
    idle = [connection for pool in pools for connection in pool.connections if connection.is_idle()]
    for connection in idle:
        await connection.aclose()
    return len(idle)


async def warm_up() -> None:
    """Load what the HTTP stack loads at its first call.

    That takes 50 ms. Without this the first calls of a process would arrive late compared with the next ones, which is
    enough to put one call too many into a provider's window.
    """
    await anyio.lowlevel.checkpoint()


async def send_once(
    client: httpx2.AsyncClient,
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
        "timeout": httpx2.Timeout(
            timeout_s, connect=min(10.0, timeout_s), pool=min(10.0, timeout_s)
        ).as_dict(),
    }
    host = request.url.host
    try:
        async with asyncio.timeout(timeout_s):
            return await _send(client, request, max_bytes, lost)
    except TimeoutError:
        raise _lost(progress, lost, host, f"no complete answer within {timeout_s:g} s") from None
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        if (lack := lack_of(error)) is not None:
            await drop_idle_connections()
        # The text of transport errors is left out: it may quote addresses with signatures.
        raise _lost(progress, lost, host, lack or type(error).__name__) from None


async def _send(
    client: httpx2.AsyncClient, request: httpx2.Request, max_bytes: int, lost: ErrorKind
) -> Answer:
    response = await client.send(request, stream=True)
    body = bytearray()
    try:
        async for chunk in _unpacked(response):
            body += chunk
            if len(body) > max_bytes:
                message = f"{request.url.host} sent an answer larger than {max_bytes} bytes."
                kind = ErrorKind.BAD_RESPONSE if lost is ErrorKind.AMBIGUOUS_SUBMIT else lost
                raise ProviderError(kind, message, http_status=response.status_code)
    except (httpx2.TransportError, httpx2.DecodingError):
        # A refusal stays one even if the rest of its explanation is lost.
        if response.status_code < 400:
            raise
    finally:
        await response.aclose()
    return Answer(response.status_code, response.headers, bytes(body))


async def _unpacked(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body of a streamed response; if it is compressed, in pieces of at most `STEP` bytes.

    Raises httpx2.DecodingError for a broken body and for an encoding, or a stack of them, that was not requested.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if encoding not in _WINDOW_BITS:
        raise httpx2.DecodingError("The answer is packed in a way that was not requested.")
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


class _Progress:
    """Follows a request through the transport, and calls the hooks on its way."""

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
        elif event.endswith("send_request_body.complete") and self._hooks.after_send is not None:
            self._hooks.after_send()


def _lost(progress: _Progress, lost: ErrorKind, host: str, what: str) -> ProviderError:
    if not progress.sent and lost is ErrorKind.AMBIGUOUS_SUBMIT:
        return ProviderError(
            ErrorKind.NETWORK_UNSENT, f"{host} could not be reached ({what}); nothing was sent."
        )
    if lost is ErrorKind.AMBIGUOUS_SUBMIT:
        return ProviderError(lost, f"The request was sent to {host}, but its answer was lost ({what}).")
    return ProviderError(lost, f"{host} did not answer ({what}).")


def _is_loopback(url: str) -> bool:
    host = httpx2.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _quiet_url_logging() -> None:
    # At INFO the client logs every URL, and URLs can carry signatures.
    for name in ("httpx2", "httpcore2"):
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(logging.WARNING)
