"""Keeps requests as they were sent, byte for byte, for tests that compare one client with another.

They hold credentials, so nothing is kept unless a setting asks for it, and what is kept is never served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request. Names of headers are in lower case; `path` has its query."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


class Recorder:
    """An ASGI app around another one: hands each request to `keep` when it has arrived, before it is answered."""

    def __init__(self, app: ASGIApp, keep: Callable[[Recorded], None]) -> None:
        self._app = app
        self._keep = keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        heard = _Heard(receive)
        body = await heard.all()
        path, query = scope["raw_path"].decode("ascii"), scope["query_string"].decode("ascii")
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        self._keep(Recorded(scope["method"], f"{path}?{query}" if query else path, headers, body))
        await self._app(scope, heard.again, send)


class _Heard:
    """A body that was read ahead and can be received once more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []
        # Answers that cut the connection look for it where the server keeps it: at the owner of `receive`.
        self.transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)

    async def all(self) -> bytes:
        more = True
        while more:
            message = await self._receive()
            self._messages.append(message)
            more = message.get("more_body", False)
        return b"".join(message.get("body", b"") for message in self._messages)

    async def again(self) -> Message:
        return self._messages.pop(0) if self._messages else await self._receive()
