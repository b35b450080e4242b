"""Hunyuan Image 3.0 over Tencent Cloud's API 3.0: signed calls, tasks, and errors that come with HTTP 200.

Source: cloud.tencent.com/document/api/1668/124632 (submit) and 124633 (query), as of 2026-11.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import httpx2
import orjson

from providers.base import Generated, Pending, Picture, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer
from providers.hunyuan.errors import EXPIRED_SIGNATURE, clock_ahead_s, error_object, refusal, task_failure
from providers.hunyuan.rules import Rules, Wanted
from providers.hunyuan.signature import authorization
from providers.shared.json_answers import answered_object, bad_answer

SERVICE = "aiart"
VERSION = "2022-12-29"
DEFAULT_REGION = "ap-guangzhou"

_WAITING_WORDS = {"1": "waiting", "2": "running"}
_FAILED, _DONE = "4", "5"


class Tc3Wire:
    """Makes the wire's requests and reads its answers; sends nothing itself."""

    mode: Literal["task"] = "task"
    default_base_url = "https://aiart.tencentcloudapi.com"
    url_ttl_s = 3600.0
    rules = Rules(
        params=frozenset({"resolution", "revise", "logo_add"}),
        max_input_bytes=4_500_000,  # less than 6 MB of base64
    )

    def __init__(
        self,
        client: httpx2.AsyncClient,
        base_url: httpx2.URL,
        secret_id: str,
        secret_key: str,
        region: str = DEFAULT_REGION,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._url = base_url.copy_with(path="/")
        self._secret_id = secret_id
        self._secret_key = secret_key
        self._region = region
        self._now = now
        self._ahead_s = 0.0  # of this machine's clock, once a signature was refused for its date

    def __repr__(self) -> str:
        return f"Tc3Wire({self._url}, {self._region})"

    def submit_request(self, _model: str, wanted: Wanted) -> httpx2.Request:
        """The action makes one model, so the model's name is not sent."""
        fields: dict[str, Any] = {
            "Prompt": wanted.prompt,
            "Images": list(wanted.images) or None,
            "Resolution": "{}:{}".format(*wanted.size) if wanted.size else None,
            "Seed": wanted.seed,
            "Revise": None if wanted.revise is None else int(wanted.revise),
            "LogoAdd": None if wanted.logo_add is None else int(wanted.logo_add),
        }
        return self._signed("SubmitTextToImageJob", fields)

    def accepted(self, answer: Answer, _model: str, _wanted: Wanted) -> Submitted:
        """The receipt in the answer to a submit; raises ProviderError."""
        response = self._response(answer)
        number = response.get("JobId")
        if not isinstance(number, str | int) or not str(number):
            raise bad_answer(answer, "holds no readable JobId", _text(response.get("RequestId")))
        return Submitted(str(number), provider_request_id=_text(response.get("RequestId")))

    def poll_request(self, submitted: Submitted) -> httpx2.Request:
        """How the task stands is a signed POST too."""
        return self._signed("QueryTextToImageJob", {"JobId": submitted.task_id})

    def progress(self, answer: Answer) -> Pending | Generated:
        """What the answer to a poll says; raises ProviderError when the task failed."""
        response = self._response(answer, of_poll=True)
        status = str(response.get("JobStatusCode", ""))
        request_id = _text(response.get("RequestId"))
        if status == _FAILED:
            code, message = (_text(response.get(name)) or "" for name in ("JobErrorCode", "JobErrorMsg"))
            raise task_failure(code, message, request_id)
        if status == _DONE:
            return _generated(response, request_id)
        return Pending(_WAITING_WORDS.get(status) or _text(response.get("JobStatusMsg")) or status)

    def _signed(self, action: str, fields: dict[str, Any]) -> httpx2.Request:
        """The request, signed over the very bytes and the very host header that it will be sent with."""
        body = orjson.dumps({name: value for name, value in fields.items() if value is not None})
        timestamp_s = int(self._now() - self._ahead_s)
        headers = {
            "Content-Type": "application/json",
            "X-TC-Action": action,
            "X-TC-Version": VERSION,
            "X-TC-Region": self._region,
            "X-TC-Timestamp": str(timestamp_s),
            "X-TC-Language": "en-US",
        }
        request = self._client.build_request("POST", self._url, content=body, headers=headers)
        request.headers["Authorization"] = authorization(
            secret_id=self._secret_id,
            secret_key=self._secret_key,
            service=SERVICE,
            host=request.headers["Host"],
            content_type=request.headers["Content-Type"],
            body=body,
            timestamp_s=timestamp_s,
        )
        return request

    def _response(self, answer: Answer, *, of_poll: bool = False) -> dict[str, Any]:
        if not answer.accepted or error_object(answer.body):
            error = refusal(answer, self._url.host, of_poll=of_poll, now_s=self._now())
            if error.provider_code == EXPIRED_SIGNATURE:
                # Dated by the provider's clock from now on; when this machine's is set, that shows in the same way.
                self._ahead_s = clock_ahead_s(answer.headers, self._now()) or 0.0
            raise error
        kind = ErrorKind.POLL_ERROR if of_poll else ErrorKind.BAD_RESPONSE
        response = answered_object(answer, kind=kind).get("Response")
        if not isinstance(response, dict):
            raise bad_answer(answer, "is not the JSON of Tencent's API", kind=kind)
        return response


def _generated(response: dict[str, Any], request_id: str | None) -> Generated:
    addresses, details = (_list(response.get(name)) for name in ("ResultImage", "ResultDetails"))
    bad = next((str(detail) for detail in details if str(detail).lower() != "success"), None)
    pictures = tuple(
        Picture(url=address)
        for number, address in enumerate(addresses)
        if isinstance(address, str)
        and address
        and (number >= len(details) or str(details[number]).lower() == "success")
    )
    if not pictures and bad:
        raise task_failure(bad if bad.replace(".", "").isalnum() else "", bad, request_id)
    if not pictures:
        message = "The task is done, but without a picture."
        raise ProviderError(ErrorKind.NO_IMAGE, message, http_status=200, request_id=request_id)
    revised = next(iter(_list(response.get("RevisedPrompt"))), None)
    return Generated(pictures, revised_prompt=_text(revised), provider_request_id=request_id)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
