"""OpenRouter's refusals: by status, inside an answer of 200, and pictures that never came.

Its own `metadata` says most: a canonical type, the source of the limit, and the words of the provider behind it.
"""

from __future__ import annotations

import re
from typing import Any

import httpx2

from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer
from providers.shared.answers import error_object, word
from providers.shared.refusals import by_code, held_or_spent, kind_without_code, refused, status_of

# Source: the canonical error types of OpenRouter's own Python client, 1.3. The status decides about all others.
_TYPES = by_code(
    auth="authentication",
    permission="permission_denied",
    billing_exhausted="payment_required",
    rate_limited="rate_limit_exceeded",
    overloaded="provider_overloaded provider_unavailable",
    invalid_request="""
        invalid_request invalid_prompt context_length_exceeded token_limit_exceeded string_too_long
        precondition_failed payload_too_large unprocessable invalid_image image_too_large image_too_small
        unsupported_image_format""",
    no_image="max_tokens_exceeded",
    unsupported="not_found",
    moderation_input="content_policy_violation",
    moderation_output="refusal",
    input_fetch="image_not_found image_download_failed",
    provider_fault="server",
    # The provider had the request. It may have made and billed a picture.
    ambiguous_submit="timeout",
)
_PROMPT_TYPES = ("invalid_prompt", "context_length_exceeded", "string_too_long")
# Money that running calls reserve: it comes back, and the answer says when (OpenRouter's page on 402).
_IN_FLIGHT_BUDGET = "openrouter_in_flight_budget"
# Spent: credits, a key's own limit, the budget of a workspace or a guardrail.
_SPENT = re.compile(r"openrouter_(?:credits|key_limit|\w+_budget)")

# Reasons why Gemini made no picture: values of `native_finish_reason` (Google's enumeration of finish reasons).
_MODERATED = re.compile(
    r"(?:IMAGE_)?(?:SAFETY|PROHIBITED_CONTENT|RECITATION)|BLOCKLIST|SPII|MODEL_ARMOR|CONTENT_FILTER"
)
_WORDS_LIMIT = 200  # characters of the text that a model wrote instead of drawing


def refusal(answer: Answer, host: str, error: dict[str, Any]) -> ProviderError:
    """The error of an answer: `error` stands in its body, perhaps deep inside, or is empty.

    An error inside an answer of success came while a picture was made, so tokens are billed.
    """
    metadata = error["metadata"] if isinstance(error.get("metadata"), dict) else {}
    type_ = word(metadata.get("error_type"))
    headers = _headers(answer, metadata)
    of_inputs = type_ in _TYPES and "image" in type_
    field = "prompt" if type_ in _PROMPT_TYPES else "inputs" if of_inputs else None
    return refused(
        answer,
        host,
        _kind(status_of(answer, word(error.get("code"))), error, metadata, headers),
        _message(error, metadata),
        headers=headers,
        words=word(error.get("message")),
        code=word(metadata.get("provider_code")) or type_ or word(error.get("code")),
        request_id=request_id_of(answer),
        field=field,
    )


def no_picture(choice: dict[str, Any], answer: Answer, host: str, request_id: str | None) -> ProviderError:
    """The error of an answer of success without a picture. Its tokens are billed, as its `usage` says."""
    message = choice["message"] if isinstance(choice.get("message"), dict) else {}
    finish, native = (word(choice.get(name)) for name in ("finish_reason", "native_finish_reason"))
    declined, text = word(message.get("refusal")), word(message.get("content"))
    reason = native or finish
    if declined or finish.lower() == "content_filter" or _MODERATED.fullmatch(native.upper()):
        kind, what = ErrorKind.MODERATION_OUTPUT, "The model refused to draw this"
    elif finish.lower() == "error":
        kind, what = ErrorKind.PROVIDER_FAULT, "The model broke off with an error"
    else:
        kind, what = ErrorKind.NO_IMAGE, f"{host} answered {answer.status} without a picture"
    words = " ".join((declined or text).split())[:_WORDS_LIMIT]
    return ProviderError(
        kind,
        f"{what}{f' ({reason})' if reason else ''}" + (f'; it wrote: "{words}".' if words else "."),
        provider_code=reason or None,
        http_status=answer.status,
        request_id=request_id,
    )


def request_id_of(answer: Answer) -> str | None:
    """The id by which OpenRouter finds a call again: of the generation, else of the request."""
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
    if kind is ErrorKind.BILLING_EXHAUSTED:
        return held_or_spent(headers)
    if kind is None and status == 502 and error:
        # OpenRouter's own sentence: the model is down or answered nonsense. Only the 502 of an edge is ambiguous.
        return ErrorKind.PROVIDER_FAULT
    return kind or kind_without_code(status, headers, word(error.get("message")))


def _headers(answer: Answer, metadata: dict[str, Any]) -> httpx2.Headers:
    """The answer's headers, and those in `metadata`, which alone have the limits of free models."""
    inner = metadata["headers"] if isinstance(metadata.get("headers"), dict) else {}
    headers = httpx2.Headers({name: value for name, value in inner.items() if isinstance(value, str)})
    headers.update(answer.headers)
    return headers


def _message(error: dict[str, Any], metadata: dict[str, Any]) -> str:
    """OpenRouter's sentence with the words of the provider behind it, because its own has few facts."""
    message, provider = word(error.get("message")), word(metadata.get("provider_name"))
    raw = metadata.get("raw")
    reasons = metadata.get("reasons")
    words = ""
    if isinstance(raw, str):
        # A provider's own error is often a JSON document in a string.
        words = word(error_object(raw.encode("utf-8", "replace")).get("message")) or raw
    if not words and isinstance(reasons, list):
        words = ", ".join(map(word, reasons))
    if not words:
        return message
    return f"{message} ({provider}: {words})" if provider else f"{message} ({words})"
