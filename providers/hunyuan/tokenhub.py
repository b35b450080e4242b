"""Hunyuan Image 3.0 over TokenHub, with a bearer key: as tasks, or as one synchronous call.

Sources: cloud.tencent.com/document/product/1823/130080 (tasks) and 135745 (synchronous), as of 2026-11.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import orjson

from providers.base import Generated, Pending, Picture, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer
from providers.hunyuan.errors import error_object, refusal, task_failure
from providers.hunyuan.rules import Rules, Wanted
from providers.shared.json_answers import answered_object, bad_answer

DEFAULT_BASE_URL = "https://tokenhub.tencentmaas.com"
DEFAULT_TASK_MODEL = "hy-image-v3.0"

_SUBMIT = "/v1/api/image/submit"
_QUERY = "/v1/api/image/query"
_GENERATE = "/v1/wand/hunyuan-image/v3-generation"


class _Bearer:
    """What both wires share: JSON posts with a key, and objects as answers."""

    default_base_url = DEFAULT_BASE_URL

    def __init__(self, client: httpx2.AsyncClient, base_url: httpx2.URL, api_key: str) -> None:
        self._client = client
        self._host = base_url.host
        # The key's other uses (chat) have a base address that ends in /v1, so people give that one too.
        self._base_url = str(base_url).rstrip("/").removesuffix("/v1")
        self._api_key = api_key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url})"

    def _post(self, path: str, fields: dict[str, Any]) -> httpx2.Request:
        body = orjson.dumps({name: value for name, value in fields.items() if value is not None})
        headers = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}
        return self._client.build_request("POST", self._base_url + path, content=body, headers=headers)

    def _object(self, answer: Answer, *, of_poll: bool = False) -> dict[str, Any]:
        if not answer.accepted:
            raise refusal(answer, self._host, of_poll=of_poll)
        return answered_object(answer, kind=ErrorKind.POLL_ERROR if of_poll else ErrorKind.BAD_RESPONSE)


class TokenHubTaskWire(_Bearer):
    """Submit and query."""

    mode: Literal["task"] = "task"
    url_ttl_s: float | None = None  # not documented for this wire
    rules = Rules(params=frozenset({"resolution", "revise", "logo_add"}), max_input_bytes=4_500_000)

    def submit_request(self, model: str, wanted: Wanted) -> httpx2.Request:
        """The fields of the signed API in lower case."""
        fields: dict[str, Any] = {
            "model": model,
            "prompt": wanted.prompt,
            "images": list(wanted.images) or None,
            "resolution": "{}:{}".format(*wanted.size) if wanted.size else None,
            "seed": wanted.seed,
            "revise": None if wanted.revise is None else int(wanted.revise),
            "logo_add": None if wanted.logo_add is None else int(wanted.logo_add),
        }
        return self._post(_SUBMIT, fields)

    def accepted(self, answer: Answer, model: str, _wanted: Wanted) -> Submitted:
        """The receipt; a poll needs the model too, so it travels in `poll_url`."""
        document = self._object(answer)
        number = document.get("id")
        if not isinstance(number, str | int) or not str(number):
            if error_object(answer.body):
                raise refusal(answer, self._host)
            raise bad_answer(answer, "holds no readable id", _request_id(document))
        return Submitted(str(number), f"{_QUERY}?model={quote(model, safe='')}", _request_id(document))

    def poll_request(self, submitted: Submitted) -> httpx2.Request:
        """The host is always the configured one: an address from elsewhere must never get the key."""
        models = parse_qs(urlsplit(submitted.poll_url or "").query).get("model")
        return self._post(
            _QUERY, {"model": models[0] if models else DEFAULT_TASK_MODEL, "id": submitted.task_id}
        )

    def progress(self, answer: Answer) -> Pending | Generated:
        """What the answer to a poll says; raises ProviderError when the task failed."""
        document = self._object(answer, of_poll=True)
        status = str(document.get("status", "")).lower()
        error = error_object(answer.body)
        if status == "failed":
            raise task_failure(error.get("code", ""), error.get("message", ""), _request_id(document))
        if status == "completed":
            return _generated(answer, document, self._host, seed=None)
        if error and not status:
            raise refusal(answer, self._host, of_poll=True)
        return Pending(status or "unknown")


class TokenHubSyncWire(_Bearer):
    """One call, answered with the picture's address."""

    mode: Literal["sync"] = "sync"
    url_ttl_s: float | None = 12 * 3600.0
    rules = Rules(params=frozenset({"resolution", "revise", "footnote"}), max_input_bytes=7_500_000)

    def submit_request(self, model: str, wanted: Wanted) -> httpx2.Request:
        """Sizes are written with an x here."""
        fields: dict[str, Any] = {
            "model": model,
            "prompt": wanted.prompt,
            "images": list(wanted.images) or None,
            "size": "{}x{}".format(*wanted.size) if wanted.size else None,
            "seed": wanted.seed,
            "revise": wanted.revise,
            "footnote": wanted.footnote,
        }
        return self._post(_GENERATE, fields)

    def accepted(self, answer: Answer, _model: str, wanted: Wanted) -> Generated:
        """The finished call; raises ProviderError."""
        document = self._object(answer)
        if error_object(answer.body):
            raise refusal(answer, self._host)
        return _generated(answer, document, self._host, seed=wanted.seed)

    def _object(self, answer: Answer, *, of_poll: bool = False) -> dict[str, Any]:
        try:
            return super()._object(answer, of_poll=of_poll)
        except ProviderError as error:
            # Whose content was rejected is not said: perhaps that of a picture which was made, and is charged.
            raise error.let_in() if error.kind is ErrorKind.MODERATION_INPUT else error from None

    def poll_request(self, submitted: Submitted) -> httpx2.Request:
        """There is nothing to poll."""
        raise _no_task(submitted.task_id)

    def progress(self, _answer: Answer) -> Pending | Generated:
        """There is nothing to poll."""
        raise _no_task("this")


def _no_task(task_id: str) -> ProviderError:
    message = f"Calls on this wire are synchronous, so {task_id} cannot be a task of its own."
    return ProviderError(ErrorKind.TASK_LOST, message)


def _generated(answer: Answer, document: dict[str, Any], host: str, *, seed: int | None) -> Generated:
    items = document.get("data")
    entries = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    pictures = tuple(
        Picture(url=item["url"], seed=seed)
        for item in entries
        if isinstance(item.get("url"), str) and item["url"]
    )
    if not pictures:
        message = f"{host} answered {answer.status} without a picture."
        raise ProviderError(
            ErrorKind.NO_IMAGE, message, http_status=answer.status, request_id=_request_id(document)
        )
    revised = entries[0].get("revised_prompt")
    return Generated(
        pictures,
        revised_prompt=revised if isinstance(revised, str) else None,
        provider_request_id=_request_id(document),
    )


def _request_id(document: dict[str, Any]) -> str | None:
    found = document.get("request_id")
    return found if isinstance(found, str) and found else None
