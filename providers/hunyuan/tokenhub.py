"""Hunyuan Image 3.0 over TokenHub, with a bearer key: as tasks, or as one synchronous call.

Sources: cloud.tencent.com/document/product/1823/130080 (tasks) and 135745 (synchronous), as of 2026-11.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx2

from providers.base import Generated, Pending, Picture, Request, Submitted
from providers.errors import ErrorKind
from providers.http.client import Answer
from providers.hunyuan.errors import error_object, poll_refusal, refusal, task_failure
from providers.hunyuan.models import Rules
from providers.hunyuan.wire import HunyuanProvider, encoded
from providers.shared.answers import answered_object, bad_answer, no_image, text_in

DEFAULT_TASK_MODEL = "hy-image-v3.0"

_QUERY = "/v1/api/image/query"


class _TokenHubProvider(HunyuanProvider):
    default_base_url = "https://tokenhub.tencentmaas.com"
    # The key's other uses (chat) have a base address that ends in /v1, so people give that one too.
    optional_path = "/v1"

    def _generated(self, answer: Answer, document: dict[str, Any], seed: int | None = None) -> Generated:
        items = document.get("data")
        entries = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        pictures = tuple(Picture(url=url, seed=seed) for item in entries if (url := text_in(item, "url")))
        request_id = text_in(document, "request_id")
        if not pictures:
            message = f"{self._host} answered {answer.status} without a picture."
            raise no_image(answer, message, request_id)
        return Generated(
            pictures, revised_prompt=text_in(entries[0], "revised_prompt"), provider_request_id=request_id
        )


class TokenHubTaskProvider(_TokenHubProvider):
    """Submit and query."""

    wire = "tokenhub_async"

    def _submit_request(self, request: Request) -> httpx2.Request:
        return self._post("/v1/api/image/submit", {"model": request.model, **self._task_fields(request)})

    def _accepted(self, answer: Answer, request: Request) -> Submitted:
        if not answer.accepted:
            raise refusal(answer, self._host, self._now())
        document = answered_object(answer)
        number, request_id = document.get("id"), text_in(document, "request_id")
        if not isinstance(number, str | int) or not str(number):
            if error_object(answer.body):
                raise refusal(answer, self._host, self._now())
            raise bad_answer(answer, "holds no readable id", request_id)
        # A poll needs the model too, so it travels in `poll_url`.
        return Submitted(str(number), f"{_QUERY}?model={quote(request.model, safe='')}", request_id)

    def _poll_request(self, submitted: Submitted) -> httpx2.Request:
        # The host is always the configured one: an address from elsewhere must never get the key.
        models = parse_qs(urlsplit(submitted.poll_url or "").query).get("model")
        return self._post(
            _QUERY, {"model": models[0] if models else DEFAULT_TASK_MODEL, "id": submitted.task_id}
        )

    def _named_task(self, document: dict[str, Any]) -> object:
        return document.get("id")

    def _progress(self, answer: Answer) -> Pending | Generated:
        if not answer.accepted:
            raise poll_refusal(answer, self._host, self._now())
        document = answered_object(answer, kind=ErrorKind.POLL_ERROR)
        status = str(document.get("status", "")).lower()
        error = error_object(answer.body)
        if status == "failed":
            request_id = text_in(document, "request_id")
            raise task_failure(error.get("code", ""), error.get("message", ""), request_id)
        if status == "completed":
            return self._generated(answer, document)
        if error and not status:
            raise poll_refusal(answer, self._host, self._now())
        return Pending(status or "unknown")


class TokenHubCallProvider(_TokenHubProvider):
    """One call, answered with the picture's address."""

    wire = "tokenhub_sync"
    mode = "sync"
    url_ttl_s = 12 * 3600.0
    rules = Rules(params=frozenset({"resolution", "revise", "footnote"}), max_input_bytes=7_500_000)

    def _submit_request(self, request: Request) -> httpx2.Request:
        wanted = self._wanted(request)
        fields = {
            "model": request.model,
            "prompt": wanted.prompt,
            "images": encoded(request) or None,
            "size": "{}x{}".format(*wanted.size) if wanted.size else None,
            "seed": wanted.seed,
            "revise": wanted.revise,
            "footnote": wanted.footnote,
        }
        return self._post("/v1/wand/hunyuan-image/v3-generation", fields)

    def _accepted(self, answer: Answer, request: Request) -> Generated:
        if answer.accepted and not error_object(answer.body):
            return self._generated(answer, answered_object(answer), request.seed)
        error = refusal(answer, self._host, self._now())
        # The answer does not name the rejected content: it may be a picture that was made, and is charged.
        raise error.of_accepted_call() if error.kind is ErrorKind.MODERATION_INPUT else error
