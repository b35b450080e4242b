"""ModelScope's API-Inference for images as the simulator speaks it, under `/modelscope`: submit, then poll.

Written from the vendor's documentation and from what its own clients read; shapes that nobody has published (the
bodies of a 429 and of a moderation) are the ones of its other errors.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine, QuotaExceededError
from providers.simulator.faults import CHARGED, TO_SUBMITS, Fault, FaultKind
from providers.simulator.ledger import Call
from providers.simulator.misbehaviour import CutResponse, HangingResponse
from providers.simulator.settings import DAY_S
from providers.simulator.tasks import Charge, Task, Tasks, TaskState

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
    """Routes over an engine and its tasks."""

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        self._engine = engine
        self._tasks = tasks
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
        fields = _json_object(body)
        if fields is None:
            return _errors(400, "Invalid request: the body is not a JSON object.")
        call = self._engine.ledger.arrive(key, str(fields.get("prompt") or ""), body, 1)
        response = await self._answer(request, fields, call, key)
        call.status = 0 if isinstance(response, HangingResponse | CutResponse) else response.status_code
        if not call.admitted:
            self._engine.ledger.end(call)
        response.headers.update(self._allowance(key))
        return response

    async def _answer(self, request: Request, fields: dict[str, Any], call: Call, key: str) -> Response:
        faults = self._engine.faults
        if fault := faults.take(call.prompt, at_the_door=True):
            return await _misbehaved(fault, request)
        if problem := _problem(fields):
            return _errors(400, problem)
        if self._engine.moderated(call.prompt):
            return _errors(400, _MODERATED)
        fault = faults.take_of(call.prompt, TO_SUBMITS)
        if fault is not None and fault.kind not in CHARGED:
            return await _misbehaved(fault, request)
        try:
            # What a failed task costs is not known, so here it costs the call.
            task = self._tasks.accept(call, key, self._drawing(fields), charge=Charge.ACCEPTED)
        except QuotaExceededError as error:
            return self._throttled(error)
        if fault is not None:
            return await _misbehaved(fault, request)
        # As the vendor's sample: the status of the submit, not of the task.
        return _json({"task_status": "SUCCEED", "task_id": task.number, "request_id": _request_id()})

    async def _poll(self, request: Request) -> Response:
        key = self._key(request)
        if key is None:
            return _bad_token()
        if request.headers.get("x-modelscope-task-type") != "image_generation":
            return _errors(400, "Invalid request: X-ModelScope-Task-Type must name the type of the task.")
        try:
            task = self._tasks.poll(request.path_params["number"], key)
        except QuotaExceededError as error:
            return self._throttled(error)
        if task is None:
            return _errors(404, _NO_TASK)
        fault = self._engine.faults.take_for_poll(task.call.prompt)
        if fault is not None and fault.kind is not FaultKind.SLOW_POLL:
            return await _misbehaved(fault, request)
        if fault is not None:
            await asyncio.sleep(fault.delay_s)
        return _json({"task_id": task.number, **self._standing(task, request), "request_id": _request_id()})

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

    def _throttled(self, error: QuotaExceededError) -> Response:
        refusal, settings = error.refusal, self._engine.settings
        if refusal.quota == "requests" and settings.requests and settings.requests.window_s == DAY_S:
            return _errors(429, _USED_UP)
        what = "concurrent tasks" if refusal.quota == "in_flight" else "requests"
        headers = {"retry-after": str(int(refusal.retry_after_s) + 1)} if settings.send_retry_after else {}
        return _errors(429, f"Too many {what}, please try again later", headers)

    def _allowance(self, key: str) -> dict[str, str]:
        """The headers of a day's allowance, for the account and, the same here, for the model."""
        day = self._engine.settings.requests
        if day is None or day.window_s != DAY_S:
            return {}
        left = str(self._engine.left(key, "requests"))
        return {
            f"modelscope-ratelimit-{what}-{name}": value
            for what in ("requests", "model-requests")
            for name, value in (("limit", str(day.count)), ("remaining", left))
        }


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


async def _misbehaved(fault: Fault, request: Request) -> Response:
    """What a fault answers, to a submit as well as to a poll."""
    match fault.kind:
        case FaultKind.AUTH:
            return _bad_token()
        case FaultKind.HANG:
            await HangingResponse.until_gone(request)
            return HangingResponse()
        case FaultKind.DROP:
            return CutResponse()
        case FaultKind.TRUNCATE:
            return CutResponse(beginning=b'{"task_status":"SUCCEED","task_')
        case FaultKind.BAD_GATEWAY:
            return Response("<html><h1>502 Bad Gateway</h1></html>", 502, media_type="text/html")
        case FaultKind.EMPTY:
            return _json({"request_id": _request_id()})
        case FaultKind.WRONG_TYPE:
            return Response("<html><body>Please sign in.</body></html>", 200, media_type="text/html")
    status, message = _REFUSALS.get(fault.kind, _REFUSALS[FaultKind.SERVER_ERROR])
    headers = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
    return _errors(status, message, headers)


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def _bad_token() -> Response:
    return _json({"error": {"message": _BAD_TOKEN, "request_id": _request_id()}}, 401)


def _errors(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"errors": {"message": message}, "request_id": _request_id()}, status, headers)


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, media_type="application/json")


def _request_id() -> str:
    return secrets.token_hex(16)
