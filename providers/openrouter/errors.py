"""OpenRouter's refusals, sorted into our taxonomy: by status, inside an answer of 200, and pictures that never came.

Its own `metadata` says most: a canonical type, whose limit was met, and what the provider behind it said.
"""

from __future__ import annotations

import re
from typing import Any

import httpx2

from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer, asks_to_wait
from providers.shared.refusals import error_object, word
from providers.shared.statuses import kind_without_code, with_wait

# Source: the canonical error types of OpenRouter's own Python client, 1.3. What is not listed goes by its status.
_TYPES: dict[str, ErrorKind] = {
    "authentication": ErrorKind.AUTH,
    "permission_denied": ErrorKind.PERMISSION,
    "payment_required": ErrorKind.BILLING_EXHAUSTED,
    "rate_limit_exceeded": ErrorKind.RATE_LIMITED,
    "provider_overloaded": ErrorKind.OVERLOADED,
    "provider_unavailable": ErrorKind.OVERLOADED,
    "invalid_request": ErrorKind.INVALID_REQUEST,
    "invalid_prompt": ErrorKind.INVALID_REQUEST,
    "context_length_exceeded": ErrorKind.INVALID_REQUEST,
    "max_tokens_exceeded": ErrorKind.NO_IMAGE,
    "token_limit_exceeded": ErrorKind.INVALID_REQUEST,
    "string_too_long": ErrorKind.INVALID_REQUEST,
    "precondition_failed": ErrorKind.INVALID_REQUEST,
    "not_found": ErrorKind.UNSUPPORTED,
    "payload_too_large": ErrorKind.INVALID_REQUEST,
    "unprocessable": ErrorKind.INVALID_REQUEST,
    "content_policy_violation": ErrorKind.MODERATION_INPUT,
    "refusal": ErrorKind.MODERATION_OUTPUT,
    "invalid_image": ErrorKind.INVALID_REQUEST,
    "image_too_large": ErrorKind.INVALID_REQUEST,
    "image_too_small": ErrorKind.INVALID_REQUEST,
    "unsupported_image_format": ErrorKind.INVALID_REQUEST,
    "image_not_found": ErrorKind.INPUT_FETCH,
    "image_download_failed": ErrorKind.INPUT_FETCH,
    "server": ErrorKind.PROVIDER_FAULT,
    # The provider had the request; whether it made and billed a picture after all is not known.
    "timeout": ErrorKind.AMBIGUOUS_SUBMIT,
}
_FIELDS = {
    **dict.fromkeys(("invalid_prompt", "context_length_exceeded", "string_too_long"), "prompt"),
    **dict.fromkeys(
        (
            "invalid_image",
            "image_too_large",
            "image_too_small",
            "unsupported_image_format",
            "image_not_found",
            "image_download_failed",
        ),
        "inputs",
    ),
}
# Money that running calls hold: it comes back, and the answer says when (OpenRouter's page on 402).
_IN_FLIGHT_BUDGET = "openrouter_in_flight_budget"
# Spent: credits, a key's own limit, the budget of a workspace or a guardrail.
_SPENT = re.compile(r"openrouter_(?:credits|key_limit|\w+_budget)")

# Why Gemini made no picture, as `native_finish_reason` (Google's enumeration of finish reasons).
_MODERATED = frozenset(
    {
        "SAFETY",
        "PROHIBITED_CONTENT",
        "BLOCKLIST",
        "SPII",
        "RECITATION",
        "MODEL_ARMOR",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "CONTENT_FILTER",
    }
)
_SAID_LIMIT = 200  # characters of what a model wrote instead of drawing


def refusal(answer: Answer, host: str, error: dict[str, Any] | None = None) -> ProviderError:
    """The error that `answer` reports: by its status, in its body, or `error`, which stands deeper inside it."""
    error = error if error is not None else error_object(answer.body)
    metadata = error["metadata"] if isinstance(error.get("metadata"), dict) else {}
    type_ = word(metadata.get("error_type"))
    message = _message(error, metadata) or (
        f"{host} answered with HTTP status {answer.status} and no readable explanation."
    )
    headers = _headers(answer, metadata)
    kind = _kind(_status(answer, error), error, metadata, headers)
    kind, retry_after_s = with_wait(kind, headers, word(error.get("message")))
    refused = ProviderError(
        kind,
        message,
        field=_FIELDS.get(type_),
        provider_code=word(metadata.get("provider_code")) or type_ or word(error.get("code")) or None,
        http_status=answer.status,
        retry_after_s=retry_after_s,
        request_id=request_id_of(answer),
    )
    # Inside an answer of success it came while a picture was being made, and tokens are billed.
    return refused.let_in() if answer.accepted else refused


def no_picture(choice: dict[str, Any], answer: Answer, host: str, request_id: str | None) -> ProviderError:
    """Why an answer of success holds no picture. Its tokens are billed all the same, as its `usage` says."""
    message = choice["message"] if isinstance(choice.get("message"), dict) else {}
    finish, native = (word(choice.get(name)) for name in ("finish_reason", "native_finish_reason"))
    refused, said = word(message.get("refusal")), word(message.get("content"))
    reason = native or finish
    if refused or finish.lower() == "content_filter" or native.upper() in _MODERATED:
        kind, what = ErrorKind.MODERATION_OUTPUT, "The model refused to draw this"
    elif finish.lower() == "error":
        kind, what = ErrorKind.PROVIDER_FAULT, "The model broke off with an error"
    else:
        kind, what = ErrorKind.NO_IMAGE, f"{host} answered {answer.status} without a picture"
    words = " ".join((refused or said).split())[:_SAID_LIMIT]
    return ProviderError(
        kind,
        f"{what}{f' ({reason})' if reason else ''}" + (f'; it wrote: "{words}".' if words else "."),
        provider_code=reason or None,
        http_status=answer.status,
        request_id=request_id,
    )


def request_id_of(answer: Answer) -> str | None:
    """The id by which OpenRouter finds a call again: that of the generation, or that of the request."""
    return answer.headers.get("x-generation-id") or answer.headers.get("x-request-id")


def _kind(status: int, error: dict[str, Any], metadata: dict[str, Any], headers: httpx2.Headers) -> ErrorKind:
    source = word(metadata.get("limit_source"))
    if source == _IN_FLIGHT_BUDGET:
        return ErrorKind.BUDGET_IN_FLIGHT
    if status in (402, 403) and _SPENT.fullmatch(source):
        return ErrorKind.BILLING_EXHAUSTED
    if status == 403 and (metadata.get("reasons") or metadata.get("flagged_input")):
        return ErrorKind.MODERATION_INPUT
    kind = _TYPES.get(word(metadata.get("error_type")))
    if kind is ErrorKind.BILLING_EXHAUSTED and asks_to_wait(headers):
        return ErrorKind.BUDGET_IN_FLIGHT
    if kind is None and status == 502 and error:
        # Said by OpenRouter itself: the model is down or answered nonsense. Only an edge's 502 leaves it open.
        return ErrorKind.PROVIDER_FAULT
    return kind or kind_without_code(status, headers, word(error.get("message")))


def _status(answer: Answer, error: dict[str, Any]) -> int:
    """The status that counts: an error inside an answer of 200 brings its own as `code`."""
    code = word(error.get("code"))
    return int(code) if answer.status < 400 and code.isdigit() and len(code) == 3 else answer.status


def _headers(answer: Answer, metadata: dict[str, Any]) -> httpx2.Headers:
    """The answer's headers, and those that `metadata` repeats: limits of free models are told only there."""
    inner = metadata["headers"] if isinstance(metadata.get("headers"), dict) else {}
    headers = httpx2.Headers({name: value for name, value in inner.items() if isinstance(value, str)})
    headers.update(answer.headers)
    return headers


def _message(error: dict[str, Any], metadata: dict[str, Any]) -> str:
    """OpenRouter's sentence and, where a provider behind it spoke, what that said: its own is often empty talk."""
    message, provider = word(error.get("message")), word(metadata.get("provider_name"))
    raw = metadata.get("raw")
    said = _sentence_in(raw) if isinstance(raw, str) else ""
    reasons = metadata.get("reasons")
    if not said and isinstance(reasons, list):
        said = ", ".join(word(reason) for reason in reasons)
    if not said:
        return message
    return f"{message} ({provider}: {said})" if provider else f"{message} ({said})"


def _sentence_in(raw: str) -> str:
    """A provider's own error is often a JSON document in a string."""
    inner = word(error_object(raw.encode("utf-8", "replace")).get("message"))
    return inner or raw
