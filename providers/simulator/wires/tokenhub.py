"""TokenHub's two wires for Hunyuan Image 3.0 as the simulator speaks them: tasks, and one synchronous call."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.shared.answers import json_object
from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import FaultKind
from providers.simulator.tasks import Task, Tasks, TaskState
from providers.simulator.wires.base import Check, Fields, TaskWire, json_response, sides, wait_headers
from providers.simulator.wires.hunyuan import valid_seed, valid_size


class TokenHubTaskWire(TaskWire):
    """Submit and query."""

    beginning = b'{"id":"hy-'
    known = frozenset({"model", "prompt", "images", "resolution", "seed", "revise", "logo_add"})
    size = ("resolution", ":")  # the field, and the sign between its numbers

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        super().__init__(engine, tasks)
        self.routes = [
            Route("/v1/api/image/submit", self.submit, methods=["POST"]),
            Route("/v1/api/image/query", self._keyed(self._query), methods=["POST"]),
        ]

    async def _query(self, request: Request, key: str) -> Response:
        fields = json_object(await request.body())
        if not fields or not fields.get("model") or not fields.get("id"):
            return self._invalid("model and id are required.")
        return await self._poll(request, key, str(fields["id"]))

    def _checks(self, fields: Fields) -> Iterator[Check]:
        unknown = min(fields.keys() - self.known, default="")
        yield not unknown, f"unknown parameter {unknown}"
        yield bool(fields.get("model")), "model is required"
        prompt = fields.get("prompt")
        fits = isinstance(prompt, str) and 1 <= len(prompt) <= 8192
        yield fits, "prompt must have 1 to 8192 characters"
        yield valid_seed(fields.get("seed", 1)), "seed is out of range"
        yield len(fields.get("images", [])) <= 3, "there can be at most 3 images"
        yield valid_size(self._size(fields)), "the size is not supported"

    def _size(self, fields: Fields) -> tuple[int, int]:
        name, between = self.size
        return sides(fields.get(name, f"1024{between}1024"), between)

    def _drawing(self, fields: Fields) -> Drawing:
        seed = fields.get("seed") if fields.get("revise") in (0, False) else None
        return self._engine.drawing(self._prompt(fields), seed, self._size(fields))

    def refusal(self, kind: FaultKind, wait_s: float | None = None) -> Response:
        if kind is FaultKind.EMPTY:
            return _json({})
        status, type_, code, message = _REFUSALS.get(kind, _REFUSALS[FaultKind.SERVER_ERROR])
        return _error(status, type_, code, message, wait_headers(wait_s))

    def _invalid(self, message: str, code: str = "", param: str = "") -> Response:  # noqa: ARG002 (only words)
        return _error(400, "invalid_request_error", "400001", message)

    async def accepted(self, task: Task, request: Request) -> Response:  # noqa: ARG002 (as the base)
        return _json({"id": task.number, "status": "queued", "object": "image.task"})

    def progress(self, task: Task, request: Request) -> Response:
        fields: dict[str, Any] = {"id": task.number, "status": _STANDING[task.state], "data": []}
        if task.state is TaskState.FAILED:
            fields["error"] = {"message": "The picture could not be made."}
        elif task.state is TaskState.MODERATED:
            fields["error"] = {"message": "The generated picture did not pass content moderation."}
        elif task.state is TaskState.DONE:
            fields["data"] = [{"url": self._tasks.picture_url(task, request)}]
        return _json(fields)

    def unknown_task(self) -> Response:
        return _error(404, "invalid_request_error", "404001", "The task does not exist.")


class TokenHubCallWire(TokenHubTaskWire):
    """A call that waits for its task; there is nothing to poll."""

    beginning = b'{"id":"hy-1","data":[{"url":"https://'
    known = frozenset({"model", "prompt", "images", "size", "seed", "revise", "footnote"})
    size = ("size", "x")

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        super().__init__(engine, tasks)
        self.routes = [Route("/v1/wand/hunyuan-image/v3-generation", self.submit, methods=["POST"])]

    async def accepted(self, task: Task, request: Request) -> Response:
        await task.over.wait()
        if task.state is TaskState.MODERATED:
            return self.refusal(FaultKind.MODERATION)
        if task.state is not TaskState.DONE:
            return _error(
                502,
                "upstream_error",
                "502001",
                "The picture could not be made.",
                upstream_code="FailedOperation.InnerError",
                upstream_status=200,
            )
        item = {"url": self._tasks.picture_url(task, request), "revised_prompt": task.drawing.prompt}
        return _json({"id": task.number, "created": 1_760_000_000, "data": [item]})


_STANDING = {
    TaskState.WAITING: "queued",
    TaskState.RUNNING: "running",
    TaskState.DONE: "completed",
    TaskState.FAILED: "failed",
    TaskState.MODERATED: "failed",
}
_REFUSALS = {
    FaultKind.RATE_LIMIT: (429, "rate_limit_error", "429001", "rate limit exceeded on dimension: rpm"),
    FaultKind.CONCURRENCY: (429, "rate_limit_error", "429001", "limit exceeded on dimension: concurrency"),
    FaultKind.BILLING: (402, "permission_error", "403004", "endpoint is inactive: FREE_QUOTA_EXHAUSTED"),
    FaultKind.OVERLOADED: (503, "upstream_error", "503001", "the service is busy"),
    FaultKind.AUTH: (401, "authentication_error", "401002", "the API key is not valid"),
    FaultKind.MODERATION: (451, "content_filter_error", "451001", "the content was rejected"),
    FaultKind.SERVER_ERROR: (500, "internal_error", "500001", "internal error"),
}


def _error(
    status: int, type_: str, code: str, message: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    error = {"type": type_, "code": code, "message": message, "source": "gateway", **more}
    return json_response({"error": {**error, "request_id": secrets.token_hex(8)}}, status, headers)


def _json(fields: Fields) -> Response:
    return json_response({**fields, "request_id": secrets.token_hex(8)})
