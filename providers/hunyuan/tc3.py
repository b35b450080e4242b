"""Hunyuan Image 3.0 over Tencent Cloud's API 3.0: signed calls, tasks, and errors that come with HTTP 200.

Source: cloud.tencent.com/document/api/1668/124632 (submit) and 124633 (query), as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import httpx2

from providers.base import Generated, Pending, Picture, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer
from providers.hunyuan.errors import (
    EXPIRED_SIGNATURE,
    clock_ahead_s,
    error_object,
    poll_refusal,
    refusal,
    task_failure,
)
from providers.hunyuan.signature import authorization
from providers.hunyuan.wire import HunyuanProvider
from providers.shared.answers import answered_object, bad_answer, no_image, text_in
from providers.shared.provider import json_body

SERVICE = "aiart"
VERSION = "2022-12-29"

_WAITING_WORDS = {"1": "waiting", "2": "running"}
_FAILED, _DONE = "4", "5"


class Tc3Provider(HunyuanProvider):
    """The signed API. Its action stands for one model, so the model's name is not sent."""

    wire = "tc3"
    default_base_url = "https://aiart.tencentcloudapi.com"
    url_ttl_s = 3600.0
    secret_names = ("secret_id", "secret_key")

    _ahead_s = 0.0  # of this machine's clock, after a signature was refused for its date

    def _submit_request(self, request: Request) -> httpx2.Request:
        # Tencent Cloud spells `logo_add` as LogoAdd.
        fields = self._task_fields(request).items()
        return self._signed(
            "SubmitTextToImageJob", {name.title().replace("_", ""): value for name, value in fields}
        )

    def _accepted(self, answer: Answer, request: Request) -> Submitted:  # noqa: ARG002 (as the base)
        response = self._response(answer, refusal, ErrorKind.BAD_RESPONSE)
        number, request_id = response.get("JobId"), text_in(response, "RequestId")
        if not isinstance(number, str | int) or not str(number):
            raise bad_answer(answer, "holds no readable JobId", request_id)
        return Submitted(str(number), provider_request_id=request_id)

    def _poll_request(self, submitted: Submitted) -> httpx2.Request:
        return self._signed("QueryTextToImageJob", {"JobId": submitted.task_id})

    def _named_task(self, document: dict[str, Any]) -> object:
        response = document.get("Response")
        return response.get("JobId") if isinstance(response, dict) else None

    def _progress(self, answer: Answer) -> Pending | Generated:
        response = self._response(answer, poll_refusal, ErrorKind.POLL_ERROR)
        status = str(response.get("JobStatusCode", ""))
        request_id = text_in(response, "RequestId")
        if status == _FAILED:
            code, message = (text_in(response, name) or "" for name in ("JobErrorCode", "JobErrorMsg"))
            raise task_failure(code, message, request_id)
        if status == _DONE:
            return _generated(answer, response, request_id)
        return Pending(_WAITING_WORDS.get(status) or text_in(response, "JobStatusMsg") or status)

    def _signed(self, action: str, fields: dict[str, Any]) -> httpx2.Request:
        """The request, signed over exactly the bytes and the host header that will be sent."""
        body = json_body(fields)
        timestamp_s = int(self._now() - self._ahead_s)
        headers = {
            "Content-Type": "application/json",
            "X-TC-Action": action,
            "X-TC-Version": VERSION,
            "X-TC-Region": self._region,
            "X-TC-Timestamp": str(timestamp_s),
            "X-TC-Language": "en-US",
        }
        request = self._client.build_request("POST", f"{self._base_url}/", content=body, headers=headers)
        secret_id, secret_key = self._secrets
        request.headers["Authorization"] = authorization(
            secret_id=secret_id,
            secret_key=secret_key,
            service=SERVICE,
            host=request.headers["Host"],
            content_type=request.headers["Content-Type"],
            body=body,
            timestamp_s=timestamp_s,
        )
        return request

    def _response(
        self, answer: Answer, why: Callable[[Answer, str, float], ProviderError], unreadable: ErrorKind
    ) -> dict[str, Any]:
        """The inner document; raises the error from `why` for a refusal, or one of kind `unreadable`."""
        if not answer.accepted or error_object(answer.body):
            error = why(answer, self._host, self._now())
            if error.provider_code == EXPIRED_SIGNATURE:
                # Date the next calls by the provider's clock. If this machine's is set later, a refusal shows that too.
                self._ahead_s = clock_ahead_s(answer.headers, self._now()) or 0.0
            raise error
        response = answered_object(answer, kind=unreadable).get("Response")
        if not isinstance(response, dict):
            raise bad_answer(answer, "is not the JSON of Tencent's API", kind=unreadable)
        return response


def _generated(answer: Answer, response: dict[str, Any], request_id: str | None) -> Generated:
    addresses, details, revised = (
        _list(response.get(name)) for name in ("ResultImage", "ResultDetails", "RevisedPrompt")
    )
    results = zip_longest(addresses, details[: len(addresses)], fillvalue="success")
    pictures = tuple(
        Picture(url=address)
        for address, detail in results
        if isinstance(address, str) and address and str(detail).lower() == "success"
    )
    bad = next((str(detail) for detail in details if str(detail).lower() != "success"), None)
    if not pictures and bad:
        raise task_failure(bad if bad.replace(".", "").isalnum() else "", bad, request_id)
    if not pictures:
        raise no_image(answer, "The task is done, but without a picture.", request_id)
    first = revised[0] if revised and isinstance(revised[0], str) else None
    return Generated(pictures, revised_prompt=first or None, provider_request_id=request_id)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
