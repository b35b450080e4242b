"""TokenHub's two ways to Hunyuan Image 3.0 as the simulator speaks them: tasks, and one synchronous call."""

from __future__ import annotations

import secrets
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.shared.answers import json_object
from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import FaultKind
from providers.simulator.tasks import Charge, Task, Tasks, TaskState
from providers.simulator.wires.task_desk import Submit, TaskDesk

_TASK_FIELDS = frozenset({"model", "prompt", "images", "resolution", "seed", "revise", "logo_add"})
_SYNC_FIELDS = frozenset({"model", "prompt", "images", "size", "seed", "revise", "footnote"})


class TokenHubWire:
    """Routes over an engine and its tasks."""

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        self._engine = engine
        self._tasks = TaskDesk(engine, tasks, _TaskAnswers(tasks), Charge.DONE)
        self._calls = TaskDesk(engine, tasks, _CallAnswers(tasks), Charge.DONE)
        self.routes = [
            Route("/v1/api/image/submit", self._submit, methods=["POST"]),
            Route("/v1/api/image/query", self._query, methods=["POST"]),
            Route("/v1/wand/hunyuan-image/v3-generation", self._generate, methods=["POST"]),
        ]

    async def _submit(self, request: Request) -> Response:
        return await self._taken(request, self._tasks, _TASK_FIELDS, size=("resolution", ":"))

    async def _generate(self, request: Request) -> Response:
        return await self._taken(request, self._calls, _SYNC_FIELDS, size=("size", "x"))

    async def _query(self, request: Request) -> Response:
        if (key := self._key(request)) is None:
            return _refusal(FaultKind.AUTH)
        fields = json_object(await request.body())
        if not fields or not fields.get("model") or not fields.get("id"):
            return _error(400, "invalid_request_error", "400001", "model and id are required.")
        return await self._tasks.poll(request, key, str(fields["id"]))

    async def _taken(
        self, request: Request, desk: TaskDesk, known: frozenset[str], size: tuple[str, str]
    ) -> Response:
        if (key := self._key(request)) is None:
            return _refusal(FaultKind.AUTH)
        body = await request.body()
        fields = json_object(body)
        if fields is None:
            return _error(400, "invalid_request_error", "400001", "The body is not a JSON object.")
        sides = _sides(str(fields.get(size[0], "1024" + size[1] + "1024")), size[1])
        prompt = str(fields.get("prompt", ""))
        submit = Submit(
            request=request,
            body=body,
            key=key,
            prompt=prompt,
            problem=_problem(fields, known, sides),
            drawing=lambda: self._drawing(prompt, fields, sides),
        )
        return await desk.submit(submit)

    def _key(self, request: Request) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" and self._engine.knows(key) else None

    def _drawing(self, prompt: str, fields: dict[str, Any], sides: tuple[int, int]) -> Drawing:
        seeded = "seed" in fields and fields.get("revise") in (0, False)
        seed = int(fields["seed"]) if seeded else self._engine.seed_for(prompt)
        return Drawing(prompt, seed, *sides, plain=self._engine.settings.plain)


class _TaskAnswers:
    beginning = b'{"id":"hy-'

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def refusal(self, kind: FaultKind, retry_after_s: float | None = None) -> Response:
        return _refusal(kind, retry_after_s)

    async def accepted(self, task: Task, _request: Request) -> Response:
        return _json({"id": task.number, "status": "queued", "object": "image.task"})

    def progress(self, task: Task, request: Request) -> Response:
        words = {TaskState.WAITING: "queued", TaskState.RUNNING: "running", TaskState.DONE: "completed"}
        fields: dict[str, Any] = {"id": task.number, "status": words.get(task.state, "failed"), "data": []}
        if task.state is TaskState.FAILED:
            fields["error"] = {"message": "The picture could not be made."}
        elif task.state is TaskState.MODERATED:
            fields["error"] = {"message": "The generated picture did not pass content moderation."}
        elif task.state is TaskState.DONE:
            fields["data"] = [{"url": self._tasks.picture_url(task, request)}]
        return _json(fields)

    def unknown_task(self) -> Response:
        return _error(404, "invalid_request_error", "404001", "The task does not exist.")


class _CallAnswers(_TaskAnswers):
    """A call that waits for its task; there is nothing to poll."""

    beginning = b'{"id":"hy-1","data":[{"url":"https://'

    async def accepted(self, task: Task, request: Request) -> Response:
        await task.over.wait()
        if task.state is TaskState.MODERATED:
            return _refusal(FaultKind.MODERATION)
        if task.state is not TaskState.DONE:
            upstream = {"upstream_code": "FailedOperation.InnerError", "upstream_status": 200}
            return _error(502, "upstream_error", "502001", "The picture could not be made.", **upstream)
        url = self._tasks.picture_url(task, request)
        item = {"url": url, "revised_prompt": task.drawing.prompt}
        return _json({"id": task.number, "created": 1_760_000_000, "data": [item]})


def _problem(fields: dict[str, Any], known: frozenset[str], sides: tuple[int, int]) -> Response | None:
    if unknown := sorted(fields.keys() - known):
        return _invalid(f"unknown parameter {unknown[0]}")
    if not fields.get("model"):
        return _invalid("model is required")
    prompt, seed = fields.get("prompt"), fields.get("seed", 1)
    if not isinstance(prompt, str) or not 1 <= len(prompt) <= 8192:
        return _invalid("prompt must have 1 to 8192 characters")
    if not isinstance(seed, int) or not 1 <= seed <= 4_294_967_295:
        return _invalid("seed is out of range")
    if len(fields.get("images", [])) > 3:
        return _invalid("there can be at most 3 images")
    if not 512 <= min(sides) <= max(sides) <= 2048 or sides[0] * sides[1] > 1024 * 1024:
        return _invalid("the size is not supported")
    return None


def _refusal(kind: FaultKind, retry_after_s: float | None = None) -> Response:
    if kind is FaultKind.EMPTY:
        return _json({})
    status, type_, code, message = {
        FaultKind.RATE_LIMIT: (429, "rate_limit_error", "429001", "rate limit exceeded on dimension: rpm"),
        FaultKind.CONCURRENCY: (
            429,
            "rate_limit_error",
            "429001",
            "limit exceeded on dimension: concurrency",
        ),
        FaultKind.BILLING: (402, "permission_error", "403004", "endpoint is inactive: FREE_QUOTA_EXHAUSTED"),
        FaultKind.OVERLOADED: (503, "upstream_error", "503001", "the service is busy"),
        FaultKind.AUTH: (401, "authentication_error", "401002", "the API key is not valid"),
        FaultKind.MODERATION: (451, "content_filter_error", "451001", "the content was rejected"),
    }.get(kind, (500, "internal_error", "500001", "internal error"))
    headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:.3f}".rstrip("0").rstrip(".")}
    response = _error(status, type_, code, message)
    response.headers.update(headers)
    return response


def _sides(text: str, between: str) -> tuple[int, int]:
    width, _, height = text.partition(between)
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)


def _invalid(message: str) -> Response:
    return _error(400, "invalid_request_error", "400001", message)


def _error(status: int, type_: str, code: str, message: str, **more: Any) -> Response:
    error = {"type": type_, "code": code, "message": message, "source": "gateway", **more}
    return _json({"error": {**error, "request_id": secrets.token_hex(8)}}, status)


def _json(fields: dict[str, Any], status: int = 200) -> Response:
    document = (
        fields if "error" in fields and status != 200 else {**fields, "request_id": secrets.token_hex(8)}
    )
    return Response(orjson.dumps(document), status, media_type="application/json")
