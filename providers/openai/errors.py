"""Refusals of OpenAI and of the gateways that speak like it.

The body's code counts most, then the HTTP status; see `providers.shared.refusals` for the words of the message.
"""

from __future__ import annotations

import re
from typing import Any

from providers.errors import ErrorKind, ProviderError, Retry, Scope
from providers.http.client import Answer
from providers.shared.answers import word
from providers.shared.refusals import by_code, kind_without_code, refused, status_of

# Source: OpenAI's help pages on error codes and 429s; the gateways' spellings from their issue trackers.
_CODES = by_code(
    billing_exhausted="""
        credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded
        organization_usage_limit_exceeded insufficient_quota insufficient_user_quota
        billing_hard_limit_reached billing_not_active""",
    rate_limited="rate_limit_exceeded rate_limit_error slow_down",
    concurrency_limited="concurrency_limit_exceeded",
    overloaded="server_is_overloaded engine_overloaded",
    moderation_input="""
        moderation_blocked content_policy_violation content_filter contentfilter content_moderation""",
    auth="invalid_api_key account_deactivated",
    permission="unsupported_country_region_territory",
    unsupported="model_not_found",
    input_fetch="invalid_image_url",
)
_MODERATION_WORDS = re.compile(
    r"safety system|content[ _-]?(?:policy|filter|moderation)|safety_violation", re.IGNORECASE
)
_OUTPUT_WORDS = re.compile(r"generated image|output image|image generated", re.IGNORECASE)

# Refusals that only a person can end, without a code of their own. OpenAI lets verified organisations alone use some
# models. Azure blocks a whole account in words that sound like the moderation of one prompt (pollinations #12446).
# The messages begin with these words; a quoted prompt does not stand at the beginning.
_NEEDS_A_PERSON = re.compile(
    r"(?:your )?(?:(?:resource|account) (?:is|has been) (?:temporarily )?(?:blocked|suspended)"
    r"|organi[sz]ation must be verified)",
    re.IGNORECASE,
)

# The job's fields by the API's parameters.
_FIELDS = {
    **{name: name for name in ("size", "prompt", "negative_prompt", "seed")},
    **{name: f"params.{name}" for name in ("quality", "background", "moderation", "style", "input_fidelity")},
    **dict.fromkeys(("image", "image[]", "mask"), "inputs"),
    "output_format": "output.format",
    "output_compression": "output.quality",
}


def refusal(answer: Answer, host: str, error: dict[str, Any]) -> ProviderError:
    """The error of an answer whose status is >= 400 or whose body holds an error object."""
    code, type_, message = (word(error.get(name)) for name in ("code", "type", "message"))
    kind = _kind(answer, code, type_, message)
    needs_a_person = kind is ErrorKind.PERMISSION and _NEEDS_A_PERSON.match(message)
    return refused(
        answer,
        host,
        kind,
        message,
        code=code or type_,
        request_id=answer.headers.get("x-request-id") or word(error.get("request_id")) or None,
        field=_FIELDS.get(word(error.get("param"))),
        scope=Scope.KEY if needs_a_person else None,
        retry=Retry.PAUSE_QUOTA if needs_a_person else None,
    )


def _kind(answer: Answer, code: str, type_: str, message: str) -> ErrorKind:
    known = _CODES.get(code.lower()) or _CODES.get(type_.lower())
    kind = known or kind_without_code(status_of(answer, code), answer.headers, message)
    if known is None and kind is ErrorKind.PERMISSION and _NEEDS_A_PERSON.match(message):
        return kind
    if known is None and kind in (ErrorKind.INVALID_REQUEST, ErrorKind.PERMISSION):
        kind = ErrorKind.MODERATION_INPUT if _MODERATION_WORDS.search(message) else kind
    if kind is ErrorKind.MODERATION_INPUT and _OUTPUT_WORDS.search(message):
        return ErrorKind.MODERATION_OUTPUT
    return kind
