"""Answers for what went wrong: `application/problem+json`, with a stable `code` for programs (RFC 9457)."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from daemon.storage.object_store import StorageError
from pixmill.broker.errors import in_words
from pixmill.contract import Rejection
from pixmill.contract.rejection import RejectionCode

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - an answer, which a handler sends
    """A refusal or a failure as an answer.

    `code` is stable and for programs, `detail` a sentence for people, `field` a dotted path or the name of a parameter.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        body: dict[str, Any] = {
            "type": f"urn:pixmill:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.field is not None:
            body["field"] = self.field
        if self.retry_after_s is not None:
            body["retry_after"] = self.retry_after_s
        return {**body, **self.more}

    def response(self) -> Response:
        """The answer itself."""
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return response_of(self.as_dict(), self.status, headers, MEDIA_TYPE)


def response_of(body: Any, status: int, headers: Mapping[str, str], media_type: str) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(body), status, headers, media_type)


def not_found() -> Problem:
    """The one answer for unknown work, for another tenant's work, and for a name that no work can have."""
    return Problem(404, "not_found", "There is nothing at this address, or it belongs to another tenant.")


def bad_parameter(field: str, sentence: str) -> Problem:
    """The answer for a parameter of the address, or a header, that cannot be read."""
    return Problem(400, "bad_parameter", sentence, field=field)


def invalid(field: str, sentence: str) -> Problem:
    """The answer for a field of a body that has a wrong value."""
    return Problem(422, "invalid", sentence, field=field)


def of_rejection(rejection: Rejection) -> Problem:
    """The answer for work that the contract or a route does not allow."""
    status, code = _REJECTIONS.get(rejection.code, (422, rejection.code))
    if rejection.code == "invalid" and "not a known field" in rejection.message:
        code = "unknown_field"
    if rejection.code == "unsupported" and _ADDRESS.search(rejection.field or ""):
        code = "forbidden_address"
    return Problem(status, code, rejection.message, field=rejection.field)


# Fields with addresses that Pixmill itself would visit; their hosts and schemes alone are `unsupported`.
_ADDRESS = re.compile(r"(?:^|\.)(?:callback|inputs\.\d+)\.url$")

_REJECTIONS: Mapping[RejectionCode, tuple[int, str]] = {
    "malformed": (400, "malformed"),
    "too_large": (413, "too_large"),
    "id_conflict": (409, "id_conflict"),
    "not_found": (404, "not_found"),
    "backlog_full": (429, "backlog_full"),
}

REDIS_AGAIN_S = 2
NO_SPACE_AGAIN_S = 30


def of_redis(error: Exception) -> Problem:
    """The answer while Redis is away or refuses."""
    return Problem(
        503,
        "redis_unavailable",
        "The queue cannot be reached now. A request that changes something may have been carried out: send it again "
        f"with the same id or Idempotency-Key. {in_words(error)}",
        retry_after_s=REDIS_AGAIN_S,
    )


def of_storage(_: StorageError) -> Problem:
    """The answer while pictures cannot be read or kept; the store's own words may name its place, so they stay here."""
    return Problem(
        503,
        "storage_unavailable",
        "The store of the pictures cannot be reached now.",
        retry_after_s=REDIS_AGAIN_S,
    )


def install(
    app: FastAPI, routes: Sequence[BaseRoute], response_of: Callable[[Problem, Scope], Response]
) -> None:
    """Let the app answer every error with a problem, as `response_of` puts it. `routes` are all that it serves."""

    async def answer(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if problem.status == 405:
            problem.headers["Allow"] = ", ".join(sorted(_methods_of(request, routes)))
        return response_of(problem, request.scope)

    for kind in (
        Problem,
        Rejection,
        RedisError,
        ConnectionError,
        TimeoutError,
        StorageError,
        HTTPException,
        RequestValidationError,
    ):
        app.add_exception_handler(kind, answer)


def _methods_of(request: Request, routes: Sequence[BaseRoute]) -> set[str]:
    """The methods that an address takes; the framework names those of the first route that fits."""
    fitting = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in fitting if isinstance(route, Route) for method in route.methods or ()}


def problem_of(error: Exception) -> Problem:
    """The problem for an error that an endpoint raised."""
    match error:
        case Problem():
            return error
        case Rejection():
            return of_rejection(error)
        case StorageError():
            log.warning("the store does not serve a request", error=str(error))
            return of_storage(error)
        case RedisError() | ConnectionError() | TimeoutError():
            return of_redis(error)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Problem(
                503,
                "no_space",
                "The disk of this gateway is full; send it again later.",
                retry_after_s=NO_SPACE_AGAIN_S,
            )
        case OSError():
            log.error("this machine fails a request", error=type(error).__name__, number=error.errno)
        case RequestValidationError():
            first = error.errors()[0]
            name = str(first["loc"][-1])
            return bad_parameter(name, f"`{name}`: {first['msg']}.")
        case HTTPException(status_code=404):
            return not_found()
        case HTTPException(status_code=405):
            return Problem(
                405, "method_not_allowed", "This address does not take that method.", headers=error.headers
            )
        case HTTPException():
            return Problem(error.status_code, "refused", str(error.detail))
    return Problem(
        500, "internal", "Pixmill had an internal error with this request; its log has the details."
    )
