"""The outermost layer of every request: its id, the check of its host, its headers, its metrics, lost exceptions."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.gateway.answering.problems import Problem, problem_of
from daemon.gateway.callers.keyring import LINK
from daemon.gateway.events.response import SCOPE_ANSWER
from daemon.gateway.gateway import Gateway
from daemon.gateway.openai.route import response_of
from daemon.gateway.requests.origin import TRACEPARENT, note_origin
from daemon.telemetry.tracing import trace_id_of

log = structlog.get_logger(__name__)

REQUEST_ID = "x-request-id"
OURS = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOOPBACK_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
SAFE = ("GET", "HEAD", "OPTIONS")
HTTP_ERROR = 400
UNROUTED = "none"  # the template of a request that no route takes


class Edge:
    """ASGI middleware. Errors that no handler answers become a 500 without a word about their cause."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        answer = _Answer(
            send, _request_id(headers), "same-origin" if self._gateway.keyring.is_open else _readers(scope)
        )
        structlog.contextvars.bind_contextvars(request=answer.request_id)
        if traceparent := note_origin(headers.get(TRACEPARENT)):
            structlog.contextvars.bind_contextvars(trace_id=trace_id_of(traceparent))
        try:
            if (problem := self._refusal(scope, headers)) is not None:
                await response_of(problem, scope)(scope, receive, answer.send)
            else:
                scope[SCOPE_ANSWER] = answer
                await self._app(scope, receive, answer.send)
                if answer.stream is not None:
                    await answer.stream(receive, answer.send)
        except Exception as error:
            if answer.status:
                error.add_note(f"It ended the answer to request {answer.request_id} for {scope['path']}.")
                raise  # the server logs it, and closes the connection
            log.exception("a request failed", path=scope["path"])
            await response_of(problem_of(error), scope)(scope, receive, answer.send)
        finally:
            self._note(scope, answer.status, time.perf_counter() - began)
            structlog.contextvars.unbind_contextvars("request", "trace_id")

    def _refusal(self, scope: Scope, headers: Headers) -> Problem | None:
        """The refusal of a request that a foreign page made a browser send."""
        is_open = self._gateway.keyring.is_open
        if is_open and not LOOPBACK_HOST.fullmatch(headers.get("host", "")):
            return _WRONG_HOST
        if scope["method"] in SAFE:
            return _CROSS_SITE_READ if is_open and _is_embedded(headers) else None
        return None if _is_own(headers, self._gateway.settings.gateway.public_url) else _CROSS_SITE

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request, and log it. Reads that succeed would fill the log: pages poll."""
        metrics, method = self._gateway.metrics, _METHODS.get(scope["method"], "other")
        template = getattr(scope.get("route"), "path", UNROUTED)
        metrics.http_requests.labels(template, method, str(status)).inc()
        metrics.http_request_seconds.labels(template, method).observe(seconds)
        level = log.debug if method in SAFE and status < HTTP_ERROR else log.info
        level("answered", method=method, route=template, status=status, seconds=round(seconds, 4))


_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


class _Answer:
    """The answer under way: its status once it has begun, 0 before, and the headers that all answers have."""

    __slots__ = ("_readers", "_send", "request_id", "status", "stream")

    def __init__(self, send: Send, request_id: str, readers: str) -> None:
        self._send = send
        self._readers = readers
        self.request_id = request_id
        self.status = 0
        self.stream: Callable[[Receive, Send], Awaitable[None]] | None = None  # runs after the request

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=_with_headers(message))
            headers[REQUEST_ID] = self.request_id
            headers.setdefault("cache-control", "no-store")
            headers.setdefault("x-content-type-options", "nosniff")
            headers.setdefault("cross-origin-resource-policy", self._readers)
        await self._send(message)


def _with_headers(message: Message) -> MutableMapping[str, Any]:
    message.setdefault("headers", [])
    return message


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if OURS.fullmatch(given) else secrets.token_hex(8)


def _is_own(headers: Headers, public_url: str | None) -> bool:
    """Whether no browser sent it, or a page of ours did: browsers name the site and the origin of what they send.

    A foreign page can send no key: a browser first requests a permission for it, and gets none.
    """
    if "authorization" in headers:
        return True
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True
    public = urlsplit(public_url or "").netloc
    return origin.partition("://")[2].lower() in (headers.get("host", "").lower(), public.lower() or None)


def _is_embedded(headers: Headers) -> bool:
    """Whether a page of another site loads it, rather than a person who follows a link."""
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"


def _readers(scope: Scope) -> str:
    """Whose pages may embed the answer: ours, and any that has a link which works without a key."""
    return "cross-origin" if LINK in parse_qs(scope["query_string"].decode("latin-1")) else "same-origin"


# A page may reach this machine under a name of its own (DNS rebinding), where no key protects anything.
_WRONG_HOST = Problem(
    421,
    "wrong_host",
    "Without keys, only localhost, 127.0.0.1 and [::1] are served: use one of these, or set gateway.keys_file.",
)
_CROSS_SITE = Problem(403, "cross_site", "A page of another site may change nothing here.")
_CROSS_SITE_READ = Problem(
    403, "cross_site", "Without keys, a page of another site may load nothing from here."
)
