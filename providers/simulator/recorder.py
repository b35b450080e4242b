"""Keeps requests as they were sent, byte for byte, for tests that compare one client with another.

The requests hold credentials: they are kept only if a setting says so, and they are never served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request. Names of headers are in lower case; `path` has its query."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


class Recorder:
    """An ASGI app around another one. It passes each request to `keep` when all of it has arrived."""

    def __init__(self, app: ASGIApp, keep: Callable[[Recorded], None]) -> None:
        self._app = app
        self._keep = keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        path, query = scope["raw_path"].decode("ascii"), scope["query_string"].decode("ascii")
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        self._keep(Recorded(scope["method"], f"{path}?{query}" if query else path, headers, body))
        await self._app(scope, _Again(receive, body).receive, send)


class _Again:
    """Delivers a body that was read before, and then the next messages."""

    def __init__(self, receive: Receive, body: bytes) -> None:
        self._receive = receive
        self._messages: list[Message] = [{"type": "http.request", "body": body}]
        # Answers that cut the connection look for it at the owner of `receive`, where the server keeps it.
        self.transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)

    async def receive(self) -> Message:
        return self._messages.pop() if self._messages else await self._receive()
