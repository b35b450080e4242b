"""ModelScope's API-Inference for images as the simulator speaks it, under `/modelscope`: submit, then poll.

Written from the vendor's documentation and from its own clients. Nobody has published the bodies of a 429 and of a
moderation; here they look like its other errors.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import FaultKind
from providers.simulator.settings import DAY_S, Rate
from providers.simulator.tasks import Charge, Task, Tasks, TaskState
from providers.simulator.wires.base import Check, Fields, TaskWire, json_response, sides, wait_headers

_ASYNC_ONLY = (
    "image-gen task currently does not support synchronous calls. Please refer to the documentation and set "
    "header X-ModelScope-Async-Mode=true to switch to asynchronous calling mode"
)
_RANGES = {"seed": (0, 2**31 - 1), "steps": (1, 100), "guidance": (1.5, 20)}


class ModelScopeWire(TaskWire):
    """The cost of a failed task is not known, so here it costs the call."""

    beginning = b'{"task_status":"SUCCEED","task_'
    charge = Charge.ACCEPTED

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        super().__init__(engine, tasks)
        self.routes = [
            Route("/modelscope/v1/images/generations", self.submit, methods=["POST"]),
            Route("/modelscope/v1/tasks/{number}", self._keyed(self._get_task), methods=["GET"]),
        ]

    async def _taken(self, request: Request, body: bytes, fields: Fields, key: str) -> Response:
        if request.headers.get("x-modelscope-async-mode") != "true":
            return self._invalid(_ASYNC_ONLY)
        return self._with_allowance(await super()._taken(request, body, fields, key), key)

    async def _get_task(self, request: Request, key: str) -> Response:
        if request.headers.get("x-modelscope-task-type") != "image_generation":
            return self._invalid("Invalid request: X-ModelScope-Task-Type must name the type of the task.")
        return await self._poll(request, key, request.path_params["number"])

    def refusal(self, kind: FaultKind, wait_s: float | None = None) -> Response:
        if kind is FaultKind.AUTH:
            message = "Authentication failed, please make sure that a valid ModelScope token is supplied."
            return json_response({"error": {"message": message, "request_id": _request_id()}}, 401)
        if kind is FaultKind.EMPTY:
            return _json({})
        status, message = _REFUSALS.get(kind, _REFUSALS[FaultKind.SERVER_ERROR])
        return _json({"errors": {"message": message}}, status, wait_headers(wait_s))

    def _invalid(self, message: str, code: str = "", param: str = "") -> Response:  # noqa: ARG002 (only words)
        return _json({"errors": {"message": message}}, 400)

    async def accepted(self, task: Task, request: Request) -> Response:  # noqa: ARG002 (as the base)
        # As in the vendor's sample: the status of the submit, not of the task.
        return _json({"task_status": "SUCCEED", "task_id": task.number})

    def progress(self, task: Task, request: Request) -> Response:
        return _json({"task_id": task.number, **self._standing(task, request)})

    def unknown_task(self) -> Response:
        return self.refusal(FaultKind.TASK_LOST)

    def _standing(self, task: Task, request: Request) -> dict[str, Any]:
        if task.state is TaskState.DONE:
            self._tasks.renew(task)
            return {"task_status": "SUCCEED", "output_images": [self._tasks.picture_url(task, request)]}
        if task.state in _WAITING:
            return {"task_status": _WAITING[task.state]}
        return {"task_status": "FAILED", "errors": {"message": _BAD_ENDS[task.state]}}

    def _checks(self, fields: Fields) -> Iterator[Check]:
        model = fields.get("model")
        owned = isinstance(model, str) and "/" in model
        yield owned, f"Model id : {model} , has no provider supported"
        for name in ("prompt", "negative_prompt"):
            text = fields.get(name, "" if name == "negative_prompt" else None)
            fits = isinstance(text, str) and len(text) < 2000 and (name != "prompt" or bool(text))
            yield fits, f"Invalid parameter: {name} must be text of less than 2000 characters."
        least = 512 if "z-image" in str(model).lower() else 64
        sane = all(least <= side <= 2048 for side in _size(fields))
        yield sane, f"Invalid parameter: size must lie in [{least}x{least}, 2048x2048]."
        for name, (smallest, largest) in _RANGES.items():
            value = fields.get(name, smallest)
            fits = isinstance(value, int | float if name == "guidance" else int)
            yield (
                fits and smallest <= value <= largest,
                f"Invalid parameter: {name} must lie in [{smallest}, {largest}].",
            )

    def _drawing(self, fields: Fields) -> Drawing:
        seed = fields.get("seed")
        return self._engine.drawing(
            str(fields["prompt"]), seed if isinstance(seed, int) else None, _size(fields)
        )

    def _with_allowance(self, response: Response, key: str) -> Response:
        """The headers of a day's allowance, for the account and, the same here, for the model."""
        day = self._engine.settings.requests
        if not isinstance(day, Rate) or day.window_s != DAY_S:
            return response
        left = self._engine.left(key, "requests")
        if response.status_code == 429 and not left:
            response = self.refusal(FaultKind.BILLING)
        for name in ("requests", "model-requests"):
            response.headers[f"modelscope-ratelimit-{name}-limit"] = str(day.count)
            response.headers[f"modelscope-ratelimit-{name}-remaining"] = str(left)
        return response


_WAITING = {TaskState.WAITING: "PENDING", TaskState.RUNNING: "PROCESSING"}
_BAD_ENDS = {
    TaskState.FAILED: "Model inference failed: Out of memory",
    TaskState.MODERATED: "The generated image may contain inappropriate content.",
}
_REFUSALS = {
    FaultKind.RATE_LIMIT: (429, "Too many requests, please try again later"),
    FaultKind.CONCURRENCY: (429, "Too many concurrent tasks, please try again later"),
    FaultKind.BILLING: (429, "free allocated quota exceeded"),
    FaultKind.OVERLOADED: (503, "Server is busy, please try again later"),
    FaultKind.MODERATION: (400, "Input data may contain inappropriate content."),
    FaultKind.TASK_LOST: (404, "task not found"),
    FaultKind.SERVER_ERROR: (500, "Internal server error"),
}


def _size(fields: Fields) -> tuple[int, int]:
    return sides(fields.get("size") or "1024x1024")


def _json(document: Fields, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_response({**document, "request_id": _request_id()}, status, headers)


def _request_id() -> str:
    return secrets.token_hex(16)
