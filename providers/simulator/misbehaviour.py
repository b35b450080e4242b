"""Answers that break the connection, to test a client whose answer is lost; and refusals in a fault's own words."""

from __future__ import annotations

import re
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from providers.simulator.faults import Fault, FaultKind

_BAD_GATEWAY_PAGE = (
    "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)


async def broken_answer(kind: FaultKind, request: Request, *, beginning: bytes) -> Response | None:
    """The answer for the faults that look the same on every wire; None for the others.

    `beginning` is the start of a truncated answer.
    """
    match kind:
        case FaultKind.HANG:
            await _until_gone(request)
            return CutResponse()
        case FaultKind.DROP:
            return CutResponse()
        case FaultKind.TRUNCATE:
            return CutResponse(beginning)
        case FaultKind.BAD_GATEWAY:
            return Response(_BAD_GATEWAY_PAGE, 502, media_type="text/html")
        case FaultKind.WRONG_TYPE:
            return Response("<html><body>Please sign in.</body></html>", 200, media_type="text/html")
        case _:
            return None


def in_its_words(refusal: Response, fault: Fault) -> Response:
    """The refusal of any wire, with the headers and the words of the fault."""
    refusal.headers.update(fault.headers)
    if not fault.words:
        return refusal
    words = orjson.dumps(f"{fault.words} ")[1:-1]
    body = re.sub(
        rb'"message":"', lambda start: start[0] + words, bytes(refusal.body), count=1, flags=re.IGNORECASE
    )
    kept = {name: value for name, value in refusal.headers.items() if name != "content-length"}
    return Response(body, refusal.status_code, kept)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class CutResponse(Response):
    """Cuts the connection: at once, or, with a `beginning`, after a status 200 and a part of a body.

    Its own status is 0, as in the ledger for a call without an answer.
    """

    def __init__(self, beginning: bytes = b"") -> None:
        super().__init__()
        self.status_code = 0
        self._beginning = beginning

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        if self._beginning:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"1000000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self._beginning, "more_body": True})
        # ASGI cannot express this, so the connection is closed behind uvicorn's back.
        cycle: Any = getattr(receive, "__self__", None)
        if cycle is not None and getattr(cycle, "transport", None) is not None:
            cycle.transport.close() if self._beginning else cycle.transport.abort()
