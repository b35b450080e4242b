"""Refusals of OpenAI and of the gateways that speak like it, sorted into our taxonomy.

What the body's code says counts most, then the HTTP status; how far the words of the message are believed, see
`providers.shared.statuses`.
"""

from __future__ import annotations

import re

from providers.errors import ErrorKind, ProviderError, Retry, Scope
from providers.http.client import Answer
from providers.shared.refusals import error_object, word
from providers.shared.statuses import kind_without_code, with_wait

# Source: OpenAI's help pages on error codes and 429s; the gateways' spellings from their issue trackers.
_CODES: dict[str, ErrorKind] = {
    "credit_balance_exhausted": ErrorKind.BILLING_EXHAUSTED,
    "organization_spend_limit_exceeded": ErrorKind.BILLING_EXHAUSTED,
    "project_spend_limit_exceeded": ErrorKind.BILLING_EXHAUSTED,
    "organization_usage_limit_exceeded": ErrorKind.BILLING_EXHAUSTED,
    "insufficient_quota": ErrorKind.BILLING_EXHAUSTED,
    "insufficient_user_quota": ErrorKind.BILLING_EXHAUSTED,
    "billing_hard_limit_reached": ErrorKind.BILLING_EXHAUSTED,
    "billing_not_active": ErrorKind.BILLING_EXHAUSTED,
    "rate_limit_exceeded": ErrorKind.RATE_LIMITED,
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "slow_down": ErrorKind.RATE_LIMITED,
    "concurrency_limit_exceeded": ErrorKind.CONCURRENCY_LIMITED,
    "server_is_overloaded": ErrorKind.OVERLOADED,
    "engine_overloaded": ErrorKind.OVERLOADED,
    "moderation_blocked": ErrorKind.MODERATION_INPUT,
    "content_policy_violation": ErrorKind.MODERATION_INPUT,
    "content_filter": ErrorKind.MODERATION_INPUT,
    "contentfilter": ErrorKind.MODERATION_INPUT,
    "content_moderation": ErrorKind.MODERATION_INPUT,
    "invalid_api_key": ErrorKind.AUTH,
    "account_deactivated": ErrorKind.AUTH,
    "unsupported_country_region_territory": ErrorKind.PERMISSION,
    "model_not_found": ErrorKind.UNSUPPORTED,
    "invalid_image_url": ErrorKind.INPUT_FETCH,
}

_MODERATION_WORDS = re.compile(
    r"safety system|content[ _-]?(?:policy|filter|moderation)|safety_violation", re.IGNORECASE
)
_OUTPUT_WORDS = re.compile(r"generated image|output image|image generated", re.IGNORECASE)

# Azure blocks a whole account in words that sound like the moderation of one prompt (pollinations #12446), without a
# code that says so. Its message begins with them; a prompt that a message quotes does not stand there.
_BLOCKED = re.compile(
    r"(?:your )?(?:resource|account) (?:is|has been) (?:temporarily )?(?:blocked|suspended)", re.IGNORECASE
)

# The API's parameters by the job's fields.
_FIELDS = {
    **{name: name for name in ("size", "prompt", "negative_prompt", "seed")},
    **{name: f"params.{name}" for name in ("quality", "background", "moderation", "style", "input_fidelity")},
    **dict.fromkeys(("image", "image[]", "mask"), "inputs"),
    "output_format": "output.format",
    "output_compression": "output.quality",
}


def refusal(answer: Answer, host: str) -> ProviderError:
    """The error that `answer` reports: its status is >= 400, or its body holds an error object."""
    error = error_object(answer.body)
    code, type_, message = (word(error.get(name)) for name in ("code", "type", "message"))
    kind = _kind(answer, code, type_, message)
    blocked = kind is ErrorKind.PERMISSION and _BLOCKED.match(message)
    kind, retry_after_s = with_wait(kind, answer.headers, message)
    refused = ProviderError(
        kind,
        message or f"{host} answered with HTTP status {answer.status} and no readable explanation.",
        scope=Scope.KEY if blocked else None,
        retry=Retry.PAUSE_QUOTA if blocked else None,
        field=_FIELDS.get(word(error.get("param"))),
        provider_code=code or type_ or None,
        http_status=answer.status,
        retry_after_s=retry_after_s,
        request_id=answer.headers.get("x-request-id") or word(error.get("request_id")) or None,
    )
    return refused.let_in() if answer.accepted else refused


def _kind(answer: Answer, code: str, type_: str, message: str) -> ErrorKind:
    known = _CODES.get(code.lower()) or _CODES.get(type_.lower())
    kind = known or kind_without_code(_status(answer.status, code), answer.headers, message)
    if known is None and kind is ErrorKind.PERMISSION and _BLOCKED.match(message):
        return kind
    if known is None and kind in (ErrorKind.INVALID_REQUEST, ErrorKind.PERMISSION):
        kind = ErrorKind.MODERATION_INPUT if _MODERATION_WORDS.search(message) else kind
    if kind is ErrorKind.MODERATION_INPUT and _OUTPUT_WORDS.search(message):
        return ErrorKind.MODERATION_OUTPUT
    return kind


def _status(status: int, code: str) -> int:
    """Some gateways answer 200 and put the status into the body."""
    return int(code) if status < 400 and code.isdigit() else status
