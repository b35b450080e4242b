"""Refusals of OpenAI and of the gateways that speak like it, sorted into our taxonomy.

What the body's code says counts most, then the HTTP status, then the words of the message: one status stands
for several things (a 429 is a throttle, a spent balance, or a limit on parallel calls).
"""

from __future__ import annotations

import re

from providers.errors import ErrorKind, ProviderError, Retry, Scope
from providers.http import THROTTLE_LIMIT_S, Answer, parse_retry_after
from providers.refusals import error_object, word
from providers.statuses import kind_of_status, which_throttle

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

# Azure blocks a whole account in words that sound like the moderation of one prompt (pollinations #12446).
_BLOCKED_WORDS = re.compile(
    r"resource has been temporarily blocked|account (?:is|has been) (?:blocked|suspended)", re.IGNORECASE
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
    kind = _kind(answer.status, code, type_, message or answer.text)
    retry_after_s = parse_retry_after(answer.headers, message or answer.text)
    if kind is ErrorKind.RATE_LIMITED and retry_after_s is not None and retry_after_s > THROTTLE_LIMIT_S:
        kind = ErrorKind.QUOTA_EXHAUSTED
    if kind is ErrorKind.BILLING_EXHAUSTED and answer.status == 402 and "retry-after" in answer.headers:
        # A spent balance has no time at which to come back: this is money that running calls hold.
        kind = ErrorKind.BUDGET_IN_FLIGHT
    blocked = kind is ErrorKind.PERMISSION and _BLOCKED_WORDS.search(message or answer.text)
    return ProviderError(
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


def _kind(status: int, code: str, type_: str, words: str) -> ErrorKind:
    if status >= 400 and _BLOCKED_WORDS.search(words):
        return ErrorKind.PERMISSION
    kind = _CODES.get(code.lower()) or _CODES.get(type_.lower()) or _by_status(status, code)
    if kind is ErrorKind.RATE_LIMITED:
        return which_throttle(words)
    if kind in (ErrorKind.INVALID_REQUEST, ErrorKind.PERMISSION) and _MODERATION_WORDS.search(words):
        kind = ErrorKind.MODERATION_INPUT
    if kind is ErrorKind.MODERATION_INPUT and _OUTPUT_WORDS.search(words):
        return ErrorKind.MODERATION_OUTPUT
    return kind


def _by_status(status: int, code: str) -> ErrorKind:
    if status < 400 and code.isdigit():
        # Some gateways answer 200 and put the status into the body.
        status = int(code)
    return kind_of_status(status)
