"""ModelScope's API-Inference for images as the simulator speaks it, under `/modelscope`: submit, then poll.

Written from the vendor's documentation and from what its own clients read; shapes that nobody has published (the
bodies of a 429 and of a moderation) are the ones of its other errors.
"""

from __future__ import annotations

import math
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
from providers.simulator.settings import DAY_S
from providers.simulator.tasks import Charge, Task, Tasks, TaskState
from providers.simulator.wires.task_desk import Submit, TaskDesk

_ASYNC_ONLY = (
    "image-gen task currently does not support synchronous calls. Please refer to the documentation and set "
    "header X-ModelScope-Async-Mode=true to switch to asynchronous calling mode"
)
_BAD_TOKEN = "Authentication failed, please make sure that a valid ModelScope token is supplied."  # noqa: S105
_BUSY = "Server is busy, please try again later"
_USED_UP = "free allocated quota exceeded"
_NO_TASK = "task not found"
_MODERATED = "Input data may contain inappropriate content."


class ModelScopeWire:
    """Routes over an engine and its tasks. What a failed task costs is not known, so here it costs the call."""

    beginning = b'{"task_status":"SUCCEED","task_'

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        self._engine = engine
        self._tasks = tasks
        self._desk = TaskDesk(engine, tasks, self, Charge.ACCEPTED)
        self.routes = [
            Route("/modelscope/v1/images/generations", self._submit, methods=["POST"]),
            Route("/modelscope/v1/tasks/{number}", self._poll, methods=["GET"]),
        ]

    async def _submit(self, request: Request) -> Response:
        body = await request.body()
        key = self._key(request)
        if key is None:
            return _bad_token()
        if request.headers.get("x-modelscope-async-mode") != "true":
            return _errors(400, _ASYNC_ONLY)
        fields = json_object(body)
        if fields is None:
            return _errors(400, "Invalid request: the body is not a JSON object.")
        problem = _problem(fields)
        response = await self._desk.submit(
            Submit(
                request=request,
                body=body,
                key=key,
                prompt=str(fields.get("prompt") or ""),
                problem=_errors(400, problem) if problem else None,
                drawing=lambda: self._drawing(fields),
            )
        )
        return self._with_allowance(response, key)

    async def _poll(self, request: Request) -> Response:
        key = self._key(request)
        if key is None:
            return _bad_token()
        if request.headers.get("x-modelscope-task-type") != "image_generation":
            return _errors(400, "Invalid request: X-ModelScope-Task-Type must name the type of the task.")
        return await self._desk.poll(request, key, request.path_params["number"])

    def refusal(self, kind: FaultKind, retry_after_s: float | None = None) -> Response:
        """See Answers."""
        if kind is FaultKind.AUTH:
            return _bad_token()
        if kind is FaultKind.EMPTY:
            return _json({"request_id": _request_id()})
        status, message = _REFUSALS.get(kind, _REFUSALS[FaultKind.SERVER_ERROR])
        # Whole seconds are what the header can say, so it rounds up.
        headers = {} if retry_after_s is None else {"retry-after": str(math.ceil(retry_after_s))}
        return _errors(status, message, headers)

    async def accepted(self, task: Task, request: Request) -> Response:  # noqa: ARG002 (the interface's signature)
        """As the vendor's sample: the status of the submit, not of the task."""
        return _json({"task_status": "SUCCEED", "task_id": task.number, "request_id": _request_id()})

    def progress(self, task: Task, request: Request) -> Response:
        """See Answers."""
        return _json({"task_id": task.number, **self._standing(task, request), "request_id": _request_id()})

    def unknown_task(self) -> Response:
        """See Answers."""
        return self.refusal(FaultKind.TASK_LOST)

    def _standing(self, task: Task, request: Request) -> dict[str, Any]:
        match task.state:
            case TaskState.WAITING:
                return {"task_status": "PENDING"}
            case TaskState.RUNNING:
                return {"task_status": "PROCESSING"}
            case TaskState.DONE:
                self._tasks.renew(task)
                return {"task_status": "SUCCEED", "output_images": [self._tasks.picture_url(task, request)]}
            case TaskState.FAILED:
                message = "Model inference failed: Out of memory"
            case TaskState.MODERATED:
                message = "The generated image may contain inappropriate content."
        return {"task_status": "FAILED", "errors": {"message": message}}

    def _key(self, request: Request) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" and self._engine.knows(key) else None

    def _drawing(self, fields: dict[str, Any]) -> Drawing:
        prompt, seed = str(fields["prompt"]), fields.get("seed")
        width, height = _size(fields)
        return Drawing(
            prompt=prompt,
            seed=seed if isinstance(seed, int) else self._engine.seed_for(prompt),
            width=width,
            height=height,
            plain=self._engine.settings.plain,
        )

    def _with_allowance(self, response: Response, key: str) -> Response:
        """The headers of a day's allowance, for the account and, the same here, for the model."""
        day = self._engine.settings.requests
        if day is None or day.window_s != DAY_S:
            return response
        left = self._engine.left(key, "requests")
        if response.status_code == 429 and not left:
            response = _errors(429, _USED_UP)
        for what in ("requests", "model-requests"):
            response.headers[f"modelscope-ratelimit-{what}-limit"] = str(day.count)
            response.headers[f"modelscope-ratelimit-{what}-remaining"] = str(left)
        return response


def _problem(fields: dict[str, Any]) -> str | None:
    """Why a request is not valid, in the provider's words."""
    if not isinstance(fields.get("model"), str) or "/" not in fields["model"]:
        return f"Model id : {fields.get('model')} , has no provider supported"
    for name in ("prompt", "negative_prompt"):
        text = fields.get(name, "" if name == "negative_prompt" else None)
        if not isinstance(text, str) or len(text) >= 2000 or (name == "prompt" and not text):
            return f"Invalid parameter: {name} must be text of less than 2000 characters."
    least = 512 if "z-image" in fields["model"].lower() else 64
    if not all(least <= side <= 2048 for side in _size(fields)):
        return f"Invalid parameter: size must lie in [{least}x{least}, 2048x2048]."
    ranges = {"seed": (0, 2**31 - 1), "steps": (1, 100), "guidance": (1.5, 20)}
    for name, (least_value, most_value) in ranges.items():
        value = fields.get(name, least_value)
        whole = name == "guidance" or isinstance(value, int)
        if not isinstance(value, int | float) or not whole or not least_value <= value <= most_value:
            return f"Invalid parameter: {name} must lie in [{least_value}, {most_value}]."
    return None


def _size(fields: dict[str, Any]) -> tuple[int, int]:
    """Width and height in pixels; (0, 0) if it is no size."""
    width, _, height = str(fields.get("size") or "1024x1024").partition("x")
    sides = [
        int(side) if side.isascii() and side.isdigit() and len(side) < 6 else 0 for side in (width, height)
    ]
    return sides[0], sides[1]


_REFUSALS = {
    FaultKind.RATE_LIMIT: (429, "Too many requests, please try again later"),
    FaultKind.CONCURRENCY: (429, "Too many concurrent tasks, please try again later"),
    FaultKind.BILLING: (429, _USED_UP),
    FaultKind.OVERLOADED: (503, _BUSY),
    FaultKind.MODERATION: (400, _MODERATED),
    FaultKind.TASK_LOST: (404, _NO_TASK),
    FaultKind.SERVER_ERROR: (500, "Internal server error"),
}


def _bad_token() -> Response:
    return _json({"error": {"message": _BAD_TOKEN, "request_id": _request_id()}}, 401)


def _errors(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"errors": {"message": message}, "request_id": _request_id()}, status, headers)


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, media_type="application/json")


def _request_id() -> str:
    return secrets.token_hex(16)
