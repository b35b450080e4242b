"""The HTTP client that providers share: sends a request exactly once and says how far it got.

Also the place to import the download rules and the Retry-After reader from.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import anyio.lowlevel
import httpx2

from providers.errors import ErrorKind, ProviderError
from providers.http.download import DownloadError, check_url, download
from providers.http.tls import tls_context
from providers.http.unpacking import ACCEPTED, unpacked
from providers.retry_after import THROTTLE_LIMIT_S, asks_to_wait, parse_retry_after

__all__ = [
    "THROTTLE_LIMIT_S",
    "Answer",
    "DownloadError",
    "after_send",
    "asks_to_wait",
    "before_send",
    "check_url",
    "create_client",
    "download",
    "parse_retry_after",
    "rate_headers",
    "send_once",
    "sniff_format",
    "warm_up",
]

# What the latest answer in this task said of rate limits, with its date; for whoever called the provider.
rate_headers: ContextVar[Mapping[str, str]] = ContextVar("rate_headers", default={})  # noqa: B039 - never changed

# Awaited when a request of this task is about to leave, on a connection that stands: what it raises, nothing was sent.
# It is given how long (s) connecting took, the time of one round trip; None where the connection stood before.
before_send: ContextVar[Callable[[float | None], Awaitable[None]] | None] = ContextVar(
    "before_send", default=None
)

# Called when the last byte of a request of this task has been written. Nothing may be waited for then: the answer may
# be there at any moment.
after_send: ContextVar[Callable[[], None] | None] = ContextVar("after_send", default=None)

MAX_ANSWER_BYTES = 96 * 1024 * 1024  # a 4096 x 4096 PNG in base64, and room


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end; for a refusal (status >= 400) perhaps only as far as it came."""

    status: int
    headers: httpx2.Headers
    body: bytes = field(repr=False)

    @property
    def accepted(self) -> bool:
        """Whether the status is one of success, whichever: gateways also say 201 and 202."""
        return 200 <= self.status < 300


def create_client(base_url: str, *, max_connections: int = 1000) -> httpx2.AsyncClient:
    """A client for one provider account. It follows no redirects: they would carry the credential elsewhere.

    Limits on calls are the quota's business, so the pool is larger than any quota. Idle connections are
    kept for less time than servers keep theirs: a server that closes a connection just as a paid request is
    written to it leaves the outcome unknown.
    """
    _quiet_url_logging()
    return httpx2.AsyncClient(
        verify=tls_context(),
        timeout=httpx2.Timeout(60.0, connect=10.0, pool=10.0),
        limits=httpx2.Limits(
            max_connections=max_connections, max_keepalive_connections=100, keepalive_expiry=2.5
        ),
        follow_redirects=False,
        trust_env=not _is_loopback(base_url),
        headers={"User-Agent": "pixmill", "Accept-Encoding": ACCEPTED},
    )


async def warm_up() -> None:
    """Let the HTTP stack load what it loads at its first call.

    That takes 50 ms, by which the first calls of a process would arrive later than all that follow: enough to put
    one call too many into a provider's window.
    """
    await anyio.lowlevel.checkpoint()


async def send_once(
    client: httpx2.AsyncClient,
    request: httpx2.Request,
    *,
    timeout_s: float,
    lost: ErrorKind = ErrorKind.AMBIGUOUS_SUBMIT,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> Answer:
    """Send `request` once, within `timeout_s` in all.

    Raises ProviderError: `network_unsent` if not one byte of the request left, else `lost` (for calls that
    cost nothing, such as polls, pass `poll_error`). Cancelling the caller propagates as CancelledError.
    """
    progress = _Progress()
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
        # The text of transport errors is left out: it may quote addresses with signatures.
        raise _lost(progress, lost, host, type(error).__name__) from None


async def _send(
    client: httpx2.AsyncClient, request: httpx2.Request, max_bytes: int, lost: ErrorKind
) -> Answer:
    response = await client.send(request, stream=True)
    body = bytearray()
    try:
        async for chunk in unpacked(response):
            body += chunk
            if len(body) > max_bytes:
                message = f"{request.url.host} sent an answer larger than {max_bytes} bytes."
                kind = ErrorKind.BAD_RESPONSE if lost is ErrorKind.AMBIGUOUS_SUBMIT else lost
                raise ProviderError(kind, message, http_status=response.status_code)
    except (httpx2.TransportError, httpx2.DecodingError):
        # A refusal is a refusal, also when the rest of its explanation is lost.
        if response.status_code < 400:
            raise
    finally:
        await response.aclose()
    rate_headers.set(_rate_headers(response.headers))
    return Answer(response.status_code, response.headers, bytes(body))


def _rate_headers(headers: httpx2.Headers) -> Mapping[str, str]:
    told = {name: value for name, value in headers.items() if "ratelimit" in name.lower()}
    return told | {"date": headers["date"]} if told and "date" in headers else told


class _Progress:
    """Learns from the transport whether any of the request was sent."""

    def __init__(self) -> None:
        self.sent = False
        self._connecting_at = 0.0
        self._rtt_s: float | None = None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith("connect_tcp.started"):
            self._connecting_at = time.monotonic()
        elif event.endswith("connect_tcp.complete"):
            self._rtt_s = time.monotonic() - self._connecting_at
        # CONNECT only asks a proxy for a way to the provider.
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            if (tell := before_send.get()) is not None:
                await tell(self._rtt_s)
            self.sent = True
        if event.endswith("send_request_body.complete") and (told := after_send.get()) is not None:
            told()


def _lost(progress: _Progress, lost: ErrorKind, host: str, what: str) -> ProviderError:
    if not progress.sent and lost is ErrorKind.AMBIGUOUS_SUBMIT:
        return ProviderError(
            ErrorKind.NETWORK_UNSENT, f"{host} could not be reached ({what}); nothing was sent."
        )
    if lost is ErrorKind.AMBIGUOUS_SUBMIT:
        return ProviderError(lost, f"The request was sent to {host}, but its answer was lost ({what}).")
    return ProviderError(lost, f"{host} did not answer ({what}).")


def sniff_format(data: bytes) -> str | None:
    """ "png", "jpeg" or "webp" by the first bytes, whatever a header or a file name claims; else None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


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
