"""The caller itself, and a session for browsers."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from daemon.gateway.answering.problems import invalid
from daemon.gateway.callers.access import Reader
from daemon.gateway.callers.keyring import COOKIE, SESSION_S
from daemon.gateway.callers.scopes import SCOPES
from daemon.gateway.gateway import Here
from daemon.gateway.requests.bodies import read_object
from daemon.gateway.work.answers import answer
from daemon.gateway.work.links import base_of

router = APIRouter(tags=["session"])

SESSION_BYTES = 4096


@router.get("/v1/me")
async def me(caller: Reader) -> Response:
    """The caller's name, tenant and scopes. A tenant of null may name any tenant."""
    scopes = [scope for scope in SCOPES if caller.may(scope)]
    return answer({"name": caller.name, "tenant": caller.tenant, "scopes": scopes})


@router.post("/v1/session", status_code=204)
async def begin(request: Request, here: Here) -> Response:
    """Trade a key for a cookie of 12 hours, which an event source and a picture can send."""
    given = (await read_object(request, SESSION_BYTES)).get("key")
    if not isinstance(given, str):
        raise invalid("key", "`key` must be a text.")
    return _with_cookie(request, await here.keyring.session_for(given), SESSION_S)


@router.delete("/v1/session", status_code=204)
async def end(request: Request) -> Response:
    """Forget the cookie."""
    return _with_cookie(request, "", 0)


def _with_cookie(request: Request, value: str, lasts_s: int) -> Response:
    response = Response(status_code=204)
    base = urlsplit(base_of(request))
    response.set_cookie(
        COOKIE,
        value,
        max_age=lasts_s,
        path=base.path or "/",
        secure=base.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response
