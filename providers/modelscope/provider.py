"""ModelScope's API-Inference for images (Z-Image, Qwen-Image, FLUX, ...): a task is submitted, then polled.

Source: modelscope.cn, documentation of API-Inference, image generation (2026-11), and the organisation's own
clients, modelscope-mcp-server and ms-agent. There is no idempotency key, no list of tasks and no cancel, so a
submit whose answer is lost cannot be looked up.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx2

from providers.base import Capabilities, Generated, Pending, Picture, PollPlan, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer
from providers.modelscope.errors import poll_refusal, refusal, request_id, task_failure
from providers.modelscope.models import MAX_PROMPT_CHARS, PARAMS, SEED_RANGE, rules_of, wire_param
from providers.retry_after import parse_retry_after
from providers.shared import checks
from providers.shared.account import check_options, listed, secret_of
from providers.shared.answers import answered_object, error_object, json_object, no_image, word
from providers.shared.provider import HttpProvider

DEFAULT_BASE_URL = "https://api-inference.modelscope.cn"

# The official sample polls every 5 s, ms-agent from 2 s to 10 s; a turbo model needs two or three seconds.
POLL_PLAN = PollPlan(first_s=2.0, growth=1.5, longest_s=10.0)

_OPTIONS = ("params", "allow_hosts")
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
    optional_path = "/v1"  # clients of either kind write it or leave it out
    poll_timeout_s = 20.0
    max_answer_bytes = 1024 * 1024  # addresses, never pictures

    def __init__(self, base_url: str, api_key: str, options: Mapping[str, str]) -> None:
        super().__init__(base_url, (api_key,), options)
        self._params = PARAMS.union(listed(options.get("params")))

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
        checks.prompts(request, max_chars=MAX_PROMPT_CHARS, has_negative=True)
        checks.convertible("size", request.size, rules.wire_size)
        checks.seed(request.seed, SEED_RANGE)
        checks.inputs(
            request,
            max_inputs=rules.max_inputs,
            max_bytes=None,  # not documented
            why_none="models for editing have `Edit` or `Kontext` in their names",
        )
        checks.params(request, self._params, {})
        for name, value in request.params.items():
            checks.convertible(f"params.{name}", value, partial(wire_param, name))

    def _submit_request(self, request: Request) -> httpx2.Request:
        images = [
            f"data:{image.content_type};base64,{base64.b64encode(image.data).decode()}"
            for image in request.inputs
        ]
        fields = {
            **{name: wire_param(name, value) for name, value in request.params.items()},
            "model": request.model,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "size": rules_of(request.model).wire_size(request.size),
            "seed": request.seed,
            "image_url": images[0] if len(images) == 1 else images or None,
        }
        return self._post("/v1/images/generations", fields, **{"X-ModelScope-Async-Mode": "true"})

    def _poll_request(self, submitted: Submitted) -> httpx2.Request:
        if not _TASK_ID.fullmatch(submitted.task_id):
            message = "The receipt holds no task id of ModelScope, so there is nothing to poll."
            raise ProviderError(ErrorKind.TASK_LOST, message)
        url = f"{self._base_url}/v1/tasks/{submitted.task_id}"
        headers = {**self._headers(), "X-ModelScope-Task-Type": "image_generation"}
        return self._client.build_request("GET", url, headers=headers)

    def _accepted(self, answer: Answer, request: Request) -> Submitted:  # noqa: ARG002 (as the base)
        document = json_object(answer.body) if answer.accepted else None
        task_id = word((document or {}).get("task_id"))
        if _TASK_ID.fullmatch(task_id):
            return Submitted(task_id, provider_request_id=request_id(answer))
        if not answer.accepted or error_object(answer.body):
            raise refusal(answer, self._host)
        answered_object(answer, request_id(answer))
        # The task seems accepted, but without an id nobody can poll it: treat it as a lost answer.
        raise ProviderError(
            ErrorKind.AMBIGUOUS_SUBMIT,
            f"{self._host} accepted the request, but its answer holds no task id.",
            http_status=answer.status,
            request_id=request_id(answer),
        )

    def _named_task(self, document: dict[str, Any]) -> object:
        return document.get("task_id")

    def _progress(self, answer: Answer) -> Pending | Generated:
        document = json_object(answer.body) if answer.accepted else None
        status = word((document or {}).get("task_status"))
        if document is None or not status:
            raise poll_refusal(answer, self._host)
        if status == "FAILED":
            raise task_failure(answer, self._host)
        if status != "SUCCEED":
            # PENDING, RUNNING, PROCESSING, and any future word.
            has_wait = "retry-after" in answer.headers
            return Pending(status, parse_retry_after(answer.headers) if has_wait else None)
        addresses = document.get("output_images")
        listed_ = addresses if isinstance(addresses, list) else []
        pictures = tuple(Picture(url=url) for url in listed_ if isinstance(url, str) and url)
        if not pictures:
            raise no_image(answer, f"{self._host} finished the task without a picture.", request_id(answer))
        return Generated(pictures, provider_request_id=request_id(answer))
