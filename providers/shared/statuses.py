"""What a refusal means where no code of its body is known: by its status, its headers and, last, its words.

Codes are judged before words, and words only where they cannot mislead. The message of a refused request may quote
its prompt, which may speak of billing or of quotas: it tells at most what becomes of that job. Of the account only
the message of a 429 may tell, which is about nothing else. What came with a message (a page, the words of a provider
further behind) is for people to read and is not searched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from providers.errors import RULES, ErrorKind, Retry
from providers.retry_after import THROTTLE_LIMIT_S, asks_to_wait, parse_retry_after

_STATUSES: dict[int, ErrorKind] = {
    400: ErrorKind.INVALID_REQUEST,
    401: ErrorKind.AUTH,
    402: ErrorKind.BILLING_EXHAUSTED,
    403: ErrorKind.PERMISSION,
    404: ErrorKind.UNSUPPORTED,
    408: ErrorKind.AMBIGUOUS_SUBMIT,
    409: ErrorKind.OVERLOADED,
    410: ErrorKind.UNSUPPORTED,
    413: ErrorKind.INVALID_REQUEST,
    415: ErrorKind.INVALID_REQUEST,
    422: ErrorKind.INVALID_REQUEST,
    425: ErrorKind.RATE_LIMITED,
    429: ErrorKind.RATE_LIMITED,
    451: ErrorKind.MODERATION_INPUT,
    500: ErrorKind.PROVIDER_FAULT,
    # An edge that lost its backend cannot say whether the backend made and billed a picture.
    502: ErrorKind.AMBIGUOUS_SUBMIT,
    503: ErrorKind.OVERLOADED,
    504: ErrorKind.AMBIGUOUS_SUBMIT,
    520: ErrorKind.AMBIGUOUS_SUBMIT,
    524: ErrorKind.AMBIGUOUS_SUBMIT,
    529: ErrorKind.OVERLOADED,
}

_CONCURRENCY_WORDS = re.compile(r"concurren|parallel|simultaneous|in[- ]flight", re.IGNORECASE)
# Not "billing" alone: throttles link to the page where more can be bought.
_BILLING_WORDS = re.compile(
    r"exceeded your current quota|billing (?:details|(?:hard )?limit)"
    r"|insufficient (?:credit|balance|funds)|spend(?:ing)? limit|arrears",
    re.IGNORECASE,
)
_ALLOWANCE_WORDS = re.compile(
    r"free (?:allocated )?quota|no available image quota|daily (?:limit|quota)", re.IGNORECASE
)


def kind_of_status(status: int) -> ErrorKind:
    """The kind of failure that a status of the call that asks for a picture stands for."""
    if status in _STATUSES:
        return _STATUSES[status]
    if 400 <= status < 500:
        return ErrorKind.INVALID_REQUEST
    return ErrorKind.PROVIDER_FAULT if status >= 500 else ErrorKind.UNKNOWN


def kind_without_code(status: int, headers: Mapping[str, str], message: str) -> ErrorKind:
    """The same, where one status stands for several things.

    A 429 is a rate, calls in parallel, a spent balance or allowance, as its message says. A 402 with a time at which
    to come back is money that running calls hold; a spent balance has none.
    """
    kind = kind_of_status(status)
    if kind is ErrorKind.RATE_LIMITED:
        return _which_throttle(message)
    if kind is ErrorKind.BILLING_EXHAUSTED and asks_to_wait(headers):
        return ErrorKind.BUDGET_IN_FLIGHT
    return kind


def with_wait(kind: ErrorKind, headers: Mapping[str, str], message: str) -> tuple[ErrorKind, float | None]:
    """The wait (s) that an answer asks for, and its kind once that is known: a rate that asks for hours is used up.

    Words count only for what can be waited for: those of other refusals may be the prompt's.
    """
    to_wait_for = RULES[kind].retry in (Retry.AFTER_THROTTLE, Retry.PAUSE_QUOTA)
    wait_s = parse_retry_after(headers, message if to_wait_for else "")
    if kind is ErrorKind.RATE_LIMITED and wait_s is not None and wait_s > THROTTLE_LIMIT_S:
        return ErrorKind.QUOTA_EXHAUSTED, wait_s
    return kind, wait_s


def _which_throttle(message: str) -> ErrorKind:
    if _BILLING_WORDS.search(message):
        return ErrorKind.BILLING_EXHAUSTED
    if _CONCURRENCY_WORDS.search(message):
        return ErrorKind.CONCURRENCY_LIMITED
    return ErrorKind.QUOTA_EXHAUSTED if _ALLOWANCE_WORDS.search(message) else ErrorKind.RATE_LIMITED
