"""ModelScope's API-Inference for images (Z-Image, Qwen-Image, FLUX, ...): a task is submitted, then polled.

Source: modelscope.cn, documentation of API-Inference, image generation (2026-11), and the organisation's own
clients, modelscope-mcp-server and ms-agent. There is no idempotency key, no list of tasks and no cancel, so a
submit whose answer is lost cannot be looked up.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import orjson

from providers.base import Capabilities, Generated, Pending, Picture, PollPlan, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer, parse_retry_after
from providers.modelscope.errors import poll_refusal, refusal, request_id, task_failure
from providers.modelscope.models import (
    MAX_PROMPT_CHARS,
    PARAMS,
    SEED_RANGE,
    param_problem,
    rules_of,
    wire_params,
)
from providers.shared.account import base_address, check_options, listed, secret_of
from providers.shared.checks import check_inputs, check_params, check_prompts, check_seed, invalid
from providers.shared.http_provider import HttpProvider
from providers.shared.json_answers import answered_object
from providers.shared.refusals import error_object, json_object, word

DEFAULT_BASE_URL = "https://api-inference.modelscope.cn"
POLL_TIMEOUT_S = 20.0

# The official sample polls every 5 s, ms-agent from 2 s to 10 s; a turbo model needs two or three seconds.
POLL_PLAN = PollPlan(first_s=2.0, growth=1.5, longest_s=10.0)

_OPTIONS = ("params", "allow_hosts")
_MAX_ANSWER_BYTES = 1024 * 1024  # addresses, never pictures
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


def create(*, base_url: str | None, secrets: Mapping[str, str], options: Mapping[str, str]) -> ZImageProvider:
    """A provider for one credential; raises ValueError with a sentence.

    Secrets: `api_key`. Options: `params` (further parameter names to let through, by comma), `allow_hosts` (hosts,
    by comma, whose result addresses may be plain http or private).
    """
    check_options("zimage", options, _OPTIONS)
    return ZImageProvider(base_url or DEFAULT_BASE_URL, secret_of("zimage", secrets), options)


class ZImageProvider(HttpProvider):
    """One ModelScope account."""

    name = "zimage"

    def __init__(self, base_url: str, api_key: str, options: Mapping[str, str]) -> None:
        url = base_address(base_url)
        super().__init__(url, (api_key,), options)
        # Written with and without the version, as clients of either kind know it.
        self._base_url = str(url).rstrip("/").removesuffix("/v1")
        self._api_key = api_key
        self._params = PARAMS | set(listed(options.get("params")))

    def __repr__(self) -> str:
        return f"ZImageProvider({self._base_url})"

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities(
            mode="task",
            max_prompt_chars=MAX_PROMPT_CHARS,
            max_inputs=rules_of(model).max_inputs,
            seed_range=SEED_RANGE,
            url_ttl_s=None,  # not documented
            poll=POLL_PLAN,
        )

    def check(self, request: Request) -> None:
        """See Provider.check."""
        rules = rules_of(request.model)
        check_prompts(request, max_chars=MAX_PROMPT_CHARS, has_negative=True)
        try:
            rules.wire_size(request.size)
        except ValueError as error:
            raise invalid("size", str(error)) from None
        check_seed(request.seed, SEED_RANGE)
        check_inputs(
            request,
            max_inputs=rules.max_inputs,
            max_bytes=None,  # not documented
            why_none="models for editing have `Edit` or `Kontext` in their names",
        )
        check_params(request.params, accepted=self._params, choices={}, model=request.model)
        for name, value in request.params.items():
            if problem := param_problem(name, value):
                raise invalid(f"params.{name}", problem)

    async def submit(self, request: Request, *, timeout_s: float) -> Submitted | Generated:
        """One POST; its answer is a receipt. See Provider.submit."""
        self.check(request)
        http_request = self._client.build_request(
            "POST",
            f"{self._base_url}/v1/images/generations",
            content=orjson.dumps(_fields(request)),
            headers={
                **self._headers(),
                "Content-Type": "application/json",
                "X-ModelScope-Async-Mode": "true",
            },
        )
        return await self._call(http_request, self._receipt, timeout_s=timeout_s, max_bytes=_MAX_ANSWER_BYTES)

    async def poll(self, submitted: Submitted) -> Pending | Generated:
        """See Provider.poll. The receipt's task id is all that is needed, so any replica can poll."""
        if not _TASK_ID.fullmatch(submitted.task_id):
            raise ProviderError(
                ErrorKind.TASK_LOST,
                "The receipt holds no task id of ModelScope, so there is nothing to poll.",
            )
        http_request = self._client.build_request(
            "GET",
            f"{self._base_url}/v1/tasks/{submitted.task_id}",
            headers={**self._headers(), "X-ModelScope-Task-Type": "image_generation"},
        )
        return await self._call(
            http_request,
            self._standing,
            timeout_s=POLL_TIMEOUT_S,
            lost=ErrorKind.POLL_ERROR,
            max_bytes=_MAX_ANSWER_BYTES,
        )

    # --- the request

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key}"}

    # --- the answers

    def _receipt(self, answer: Answer) -> Submitted:
        document = json_object(answer.body) if answer.accepted else None
        task_id = word((document or {}).get("task_id"))
        if _TASK_ID.fullmatch(task_id):
            return Submitted(task_id, provider_request_id=request_id(answer))
        if not answer.accepted or error_object(answer.body):
            raise refusal(answer, self._host)
        answered_object(answer, request_id(answer))
        # Accepted, as it seems, but nobody can ask for the picture: as if the answer had been lost.
        raise ProviderError(
            ErrorKind.AMBIGUOUS_SUBMIT,
            f"{self._host} accepted the request, but its answer holds no task id.",
            http_status=answer.status,
            request_id=request_id(answer),
        )

    def _standing(self, answer: Answer) -> Pending | Generated:
        document = json_object(answer.body) if answer.accepted else None
        status = word((document or {}).get("task_status"))
        if document is None or not status:
            raise poll_refusal(answer, self._host)
        if status == "FAILED":
            raise task_failure(answer, self._host)
        if status != "SUCCEED":
            # PENDING, RUNNING, PROCESSING, and whatever else there will be.
            asked = "retry-after" in answer.headers
            return Pending(status, parse_retry_after(answer.headers) if asked else None)
        pictures = _pictures(document.get("output_images"))
        if not pictures:
            message = f"{self._host} finished the task without a picture."
            raise ProviderError(
                ErrorKind.NO_IMAGE, message, http_status=answer.status, request_id=request_id(answer)
            )
        return Generated(pictures, provider_request_id=request_id(answer))


def _fields(request: Request) -> dict[str, Any]:
    images = [
        f"data:{image.content_type};base64,{base64.b64encode(image.data).decode()}"
        for image in request.inputs
    ]
    fields: dict[str, Any] = {
        **wire_params(request.params),
        "model": request.model,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "size": rules_of(request.model).wire_size(request.size),
        "seed": request.seed,
        "image_url": images[0] if len(images) == 1 else images or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _pictures(addresses: object) -> tuple[Picture, ...]:
    if not isinstance(addresses, list):
        return ()
    return tuple(Picture(url=url) for url in addresses if isinstance(url, str) and url)
