"""Tencent Cloud's API 3.0 for Hunyuan Image 3.0 as the simulator speaks it, with real signatures.

Every answer, refusals too, is HTTP 200 with exactly `application/json`, as the vendor's own client insists.
The TokenHub wires of the same pictures are next door and share the routes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from providers.shared.answers import json_object
from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import FaultKind
from providers.simulator.tasks import Charge, Task, Tasks, TaskState
from providers.simulator.wires.task_desk import Submit, TaskDesk
from providers.simulator.wires.tc3_check import Refusal, check_signature
from providers.simulator.wires.tokenhub import TokenHubWire

SERVICE, VERSION, REGIONS = "aiart", "2022-12-29", ("ap-guangzhou",)
_BAD_VALUE = "InvalidParameterValue.ParameterValueError"
_SUBMIT_FIELDS = frozenset({"Prompt", "Images", "Resolution", "Seed", "LogoAdd", "LogoParam", "Revise"})
_STATUS_CODES = {TaskState.WAITING: ("1", "waiting"), TaskState.RUNNING: ("2", "running")}


class HunyuanWire:
    """Routes over an engine and its tasks: the signed API at `/`, and TokenHub's."""

    def __init__(self, engine: Engine, tasks: Tasks, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = now
        # Whether a failed job is charged is not documented; the simulator takes the kinder reading.
        self._desk = TaskDesk(engine, tasks, _Answers(tasks), Charge.DONE)
        self.routes: list[BaseRoute] = [
            Route("/", self._call, methods=["POST"]),
            *TokenHubWire(engine, tasks).routes,
        ]

    async def _call(self, request: Request) -> Response:
        body = await request.body()
        signer = check_signature(
            request.headers,
            body,
            service=SERVICE,
            secrets=self._engine.settings.tc3_secrets,
            now_s=self._now(),
        )
        if isinstance(signer, Refusal):
            return _error(*signer)
        if problem := _header_problem(request):
            return problem
        fields = json_object(body)
        if fields is None:
            return _error("InvalidParameter", "The body is not a JSON object.")
        if request.headers["x-tc-action"] == "QueryTextToImageJob":
            return await self._desk.poll(request, signer, str(fields.get("JobId", "")))
        return await self._desk.submit(self._submit(request, body, signer, fields))

    def _submit(self, request: Request, body: bytes, signer: str, fields: dict[str, Any]) -> Submit:
        prompt = str(fields.get("Prompt", ""))
        return Submit(
            request=request,
            body=body,
            key=signer,
            prompt=prompt,
            problem=_problem(fields),
            drawing=lambda: self._drawing(prompt, fields),
        )

    def _drawing(self, prompt: str, fields: dict[str, Any]) -> Drawing:
        width, height = _size(fields)
        # While the prompt is rewritten, which is the default, the seed means nothing.
        seeded = "Seed" in fields and fields.get("Revise") == 0
        seed = int(fields["Seed"]) if seeded else self._engine.seed_for(prompt)
        return Drawing(prompt, seed, width, height, plain=self._engine.settings.plain)


class _Answers:
    beginning = b'{"Response":{"JobId":"13442'

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def refusal(self, kind: FaultKind, retry_after_s: float | None = None) -> Response:  # noqa: ARG002 (never told)
        if kind is FaultKind.OVERLOADED:
            return Response("Service Unavailable", 503, media_type="text/plain")
        if kind is FaultKind.EMPTY:
            return _response({})
        return _error(*_REFUSALS.get(kind, ("InternalError", "An internal error has occurred.")))

    async def accepted(self, task: Task, _request: Request) -> Response:
        return _response({"JobId": task.number})

    def progress(self, task: Task, request: Request) -> Response:
        status, message = _STATUS_CODES.get(task.state, ("5", "done"))
        fields: dict[str, Any] = {
            "JobErrorCode": "",
            "JobErrorMsg": "",
            "ResultImage": [],
            "ResultDetails": [],
        }
        fields["RevisedPrompt"] = []
        if task.state is TaskState.FAILED:
            status, message = "4", "failed"
            fields |= {"JobErrorCode": "ServerError", "JobErrorMsg": "The picture could not be made."}
        elif task.state is TaskState.MODERATED:
            status, message = "4", "failed"
            code = "FailedOperation.GenerateImageFailed"
            fields |= {"JobErrorCode": code, "JobErrorMsg": "The picture did not pass the review."}
        elif task.state is TaskState.DONE:
            fields["ResultImage"] = [self._tasks.picture_url(task, request)]
            fields["ResultDetails"] = ["Success"]
            fields["RevisedPrompt"] = [task.drawing.prompt]
        return _response({"JobStatusCode": status, "JobStatusMsg": message, **fields})

    def unknown_task(self) -> Response:
        return _error("FailedOperation.JobNotExist", "The job does not exist.")


_REFUSALS = {
    FaultKind.RATE_LIMIT: ("RequestLimitExceeded", "The request frequency exceeds the limit."),
    FaultKind.CONCURRENCY: ("RequestLimitExceeded.JobNumExceed", "Too many jobs are being processed."),
    FaultKind.BILLING: ("ResourceUnavailable.InArrears", "The account is in arrears."),
    FaultKind.AUTH: ("AuthFailure.SecretIdNotFound", "The SecretId is not found."),
    FaultKind.MODERATION: ("OperationDenied.TextIllegalDetected", "The text contains illegal content."),
    FaultKind.SERVER_ERROR: ("FailedOperation.InnerError", "An internal error has occurred."),
}


def _header_problem(request: Request) -> Response | None:
    headers = request.headers
    if headers.get("x-tc-action") not in ("SubmitTextToImageJob", "QueryTextToImageJob"):
        return _error("InvalidAction", f"The action {headers.get('x-tc-action')} does not exist.")
    if headers.get("x-tc-version") != VERSION:
        return _error("NoSuchVersion", f"The version {headers.get('x-tc-version')} does not exist.")
    if headers.get("x-tc-region") not in REGIONS:
        return _error("UnsupportedRegion", f"The region {headers.get('x-tc-region')} is not supported.")
    return None


def _problem(fields: dict[str, Any]) -> Response | None:
    """Why a submit is not valid, as an answer."""
    if unknown := sorted(fields.keys() - _SUBMIT_FIELDS):
        return _error("UnknownParameter", f"The parameter {unknown[0]} is not recognized.")
    prompt, seed = fields.get("Prompt"), fields.get("Seed", 1)
    if not isinstance(prompt, str) or not prompt:
        return _error("MissingParameter", "The parameter Prompt is missing.")
    if len(prompt) > 8192:
        return _error("InvalidParameterValue.TextLengthExceed", "The text is too long.")
    if not isinstance(seed, int) or not 1 <= seed <= 4_294_967_295:
        return _error(_BAD_VALUE, "Seed is out of range.")
    if len(fields.get("Images", [])) > 3:
        return _error(_BAD_VALUE, "There can be at most 3 Images.")
    width, height = _size(fields)
    if not 512 <= min(width, height) <= max(width, height) <= 2048 or width * height > 1024 * 1024:
        return _error(_BAD_VALUE, f"Resolution {fields.get('Resolution')} is not supported.")
    return None


def _size(fields: dict[str, Any]) -> tuple[int, int]:
    width, _, height = str(fields.get("Resolution", "1024:1024")).partition(":")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)


def _error(code: str, message: str) -> Response:
    return _response({"Error": {"Code": code, "Message": message}})


def _response(fields: dict[str, Any]) -> Response:
    document = {"Response": {**fields, "RequestId": secrets.token_hex(16)}}
    return Response(orjson.dumps(document), media_type="application/json")
