"""Answers errors as clients of OpenAI read them: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from redis.exceptions import RedisError
from starlette.types import Scope

from daemon.gateway.answering.problems import Problem, problem_of
from daemon.gateway.work.answers import answer
from daemon.storage.object_store import StorageError
from pixmill.contract import Rejection

EXPECTED: Final = (Problem, Rejection, RedisError, OSError, StorageError, RequestValidationError)
NO_RETRY: Final = {"x-should-retry": "false"}  # the SDK repeats a 409 and every 5xx unless this stops it
RESTARTED_S: Final = 1
BELOW: Final = ("/v1/images/", "/v1/models/")
_STATUS: Final = {422: 400}


class OpenAiRoute(APIRoute):
    """A route of this door."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except EXPECTED as error:
                return as_openai(problem_of(error))

        return handle


def response_of(problem: Problem, scope: Scope) -> Response:
    """The answer for a problem that no route answers: below our addresses in OpenAI's form, elsewhere in ours."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return as_openai(problem) if f"{path}/".startswith(BELOW) else problem.response()


def as_openai(problem: Problem) -> Response:
    """A problem in OpenAI's form."""
    status = _STATUS.get(problem.status, problem.status)
    headers = dict(problem.headers)
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if status == 409:
        headers |= NO_RETRY
    return answer({"error": error_object(problem)}, status, headers)


def error_object(problem: Problem) -> dict[str, Any]:
    """The object under `error`; with `id` where there is work that goes on."""
    return {
        "message": problem.detail,
        "type": _type_of(problem.status),
        "param": problem.field,
        "code": problem.code,
        **problem.more,
    }


def restarting(ident: str, address: str) -> Problem:
    """The answer when this process stops while a request waits; an SDK sends it again, and joins its job."""
    return Problem(
        503,
        "restarting",
        f"This server stops and the job goes on; send the request again, or poll {address}.",
        retry_after_s=RESTARTED_S,
        headers={"Location": address},
        more={"id": ident},
    )


def still_running(ident: str, address: str) -> Problem:
    """The answer for a job that goes on when its request ends. The SDK must not send it again."""
    return Problem(
        504,
        "still_running",
        f"The pictures are still being made; poll {address}.",
        headers={"Location": address, **NO_RETRY},
        more={"id": ident, "poll_url": address},
    )


def _type_of(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error"
    )
