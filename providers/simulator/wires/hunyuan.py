"""Tencent Cloud's API 3.0 for Hunyuan Image 3.0 as the simulator speaks it, with real signatures.

Every answer, refusals too, is HTTP 200 with exactly `application/json`, as the vendor's own client insists.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import FaultKind
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY
from providers.simulator.tasks import Task, Tasks, TaskState
from providers.simulator.wires.base import Check, Fields, TaskWire, json_response, sides
from providers.simulator.wires.tc3_check import Refusal, check_signature

SERVICE, VERSION, REGIONS = "aiart", "2022-12-29", ("ap-guangzhou",)
_ACTIONS = ("SubmitTextToImageJob", "QueryTextToImageJob")
_BAD_VALUE = "InvalidParameterValue.ParameterValueError"
_SUBMIT_FIELDS = frozenset({"Prompt", "Images", "Resolution", "Seed", "LogoAdd", "LogoParam", "Revise"})


class Tc3Wire(TaskWire):
    """The signed API at `/`. No document says whether a failed job is charged; the simulator does not charge it."""

    beginning = b'{"Response":{"JobId":"13442'

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        super().__init__(engine, tasks)
        self.routes = [Route("/", self.submit, methods=["POST"])]

    def _key(self, request: Request, body: bytes) -> str | Response:
        signer = check_signature(
            request.headers,
            body,
            service=SERVICE,
            secrets={TC3_SECRET_ID: TC3_SECRET_KEY},
            now_s=time.time(),
        )
        if isinstance(signer, Refusal):
            return self._invalid(signer.message, signer.code)
        for name, known, code in (
            ("action", _ACTIONS, "InvalidAction"),
            ("version", (VERSION,), "NoSuchVersion"),
            ("region", REGIONS, "UnsupportedRegion"),
        ):
            value = request.headers.get(f"x-tc-{name}")
            if value not in known:
                return self._invalid(f"The {name} {value} is not supported.", code)
        return signer

    async def _taken(self, request: Request, body: bytes, fields: Fields, key: str) -> Response:
        if request.headers["x-tc-action"] == "QueryTextToImageJob":
            return await self._poll(request, key, str(fields.get("JobId", "")))
        return await super()._taken(request, body, fields, key)

    def _prompt(self, fields: Fields) -> str:
        return str(fields.get("Prompt", ""))

    def _checks(self, fields: Fields) -> Iterator[Check]:
        unknown = min(fields.keys() - _SUBMIT_FIELDS, default="")
        yield not unknown, f"The parameter {unknown} is not recognized.", "UnknownParameter"
        prompt, seed = fields.get("Prompt"), fields.get("Seed", 1)
        yield isinstance(prompt, str) and bool(prompt), "The parameter Prompt is missing.", "MissingParameter"
        yield len(str(prompt)) <= 8192, "The text is too long.", "InvalidParameterValue.TextLengthExceed"
        yield valid_seed(seed), "Seed is out of range.", _BAD_VALUE
        yield len(fields.get("Images", [])) <= 3, "There can be at most 3 Images.", _BAD_VALUE
        size = fields.get("Resolution")
        yield valid_size(_size(fields)), f"Resolution {size} is not supported.", _BAD_VALUE

    def _drawing(self, fields: Fields) -> Drawing:
        # While the prompt is rewritten, which is the default, the seed means nothing.
        seed = fields.get("Seed") if fields.get("Revise") == 0 else None
        return self._engine.drawing(self._prompt(fields), seed, _size(fields))

    def refusal(self, kind: FaultKind, wait_s: float | None = None) -> Response:  # noqa: ARG002 (it has no place)
        if kind is FaultKind.OVERLOADED:
            return Response("Service Unavailable", 503, media_type="text/plain")
        if kind is FaultKind.EMPTY:
            return _response({})
        code, message = _REFUSALS.get(kind, ("InternalError", "An internal error has occurred."))
        return self._invalid(message, code)

    def _invalid(self, message: str, code: str = "", param: str = "") -> Response:  # noqa: ARG002 (names none)
        return _response({"Error": {"Code": code or "InvalidParameter", "Message": message}})

    async def accepted(self, task: Task, request: Request) -> Response:  # noqa: ARG002 (as the base)
        return _response({"JobId": task.number})

    def progress(self, task: Task, request: Request) -> Response:
        status, message, code, reason = _STANDING[task.state]
        done = task.state is TaskState.DONE
        fields = {
            "JobStatusCode": status,
            "JobStatusMsg": message,
            "JobErrorCode": code,
            "JobErrorMsg": reason,
            "ResultImage": [self._tasks.picture_url(task, request)] if done else [],
            "ResultDetails": ["Success"] if done else [],
            "RevisedPrompt": [task.drawing.prompt] if done else [],
        }
        return _response(fields)

    def unknown_task(self) -> Response:
        return self._invalid("The job does not exist.", "FailedOperation.JobNotExist")


_STANDING = {
    TaskState.WAITING: ("1", "waiting", "", ""),
    TaskState.RUNNING: ("2", "running", "", ""),
    TaskState.FAILED: ("4", "failed", "ServerError", "The picture could not be made."),
    TaskState.MODERATED: (
        "4",
        "failed",
        "FailedOperation.GenerateImageFailed",
        "The picture did not pass the review.",
    ),
    TaskState.DONE: ("5", "done", "", ""),
}
_REFUSALS = {
    FaultKind.RATE_LIMIT: ("RequestLimitExceeded", "The request frequency exceeds the limit."),
    FaultKind.CONCURRENCY: ("RequestLimitExceeded.JobNumExceed", "Too many jobs are being processed."),
    FaultKind.BILLING: ("ResourceUnavailable.InArrears", "The account is in arrears."),
    FaultKind.AUTH: ("AuthFailure.SecretIdNotFound", "The SecretId is not found."),
    FaultKind.MODERATION: ("OperationDenied.TextIllegalDetected", "The text contains illegal content."),
    FaultKind.SERVER_ERROR: ("FailedOperation.InnerError", "An internal error has occurred."),
}


def valid_seed(seed: object) -> bool:
    """Whether Hunyuan takes this seed, on any wire."""
    return isinstance(seed, int) and 1 <= seed <= 4_294_967_295


def valid_size(size: tuple[int, int]) -> bool:
    """Whether Hunyuan takes these sides, on any wire."""
    return 512 <= min(size) <= max(size) <= 2048 and size[0] * size[1] <= 1024 * 1024


def _size(fields: Fields) -> tuple[int, int]:
    return sides(fields.get("Resolution", "1024:1024"), ":")


def _response(fields: dict[str, Any]) -> Response:
    return json_response({"Response": {**fields, "RequestId": secrets.token_hex(16)}})
