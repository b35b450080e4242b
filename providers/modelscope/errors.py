"""Refusals and failures of ModelScope's API-Inference.

A submit can be refused, a task can fail, and a poll can be refused, which says nothing about its task. A code decides
first, but codes are rare; then the status, then the words of the message within the limits of
`providers.shared.refusals`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers.errors import RULES, ErrorKind, ProviderError, Retry
from providers.http.client import Answer
from providers.shared.answers import error_object, json_object, word
from providers.shared.refusals import by_code, kind_without_code, poll_refused, refused, says_task_is_gone

# Source: code that calls the service (QuotaLimitExceed), Aliyun's content check (DataInspection...).
_CODES = by_code(
    quota_exhausted="quotalimitexceed quotalimitexceeded",
    moderation_input="datainspectionfailed",
)

# In this order: a message about a spent allowance speaks of limits too. Messages come in English and Chinese.
_WORDS: tuple[tuple[re.Pattern[str], ErrorKind], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"synchronous call|no provider supported", ErrorKind.UNSUPPORTED),
        (r"quota\W{0,3}(?:limit )?exceed|exceed\w* .{0,40}quota|daily (?:limit|quota)|QuotaLimitExceed|额度|魔粒",
         ErrorKind.QUOTA_EXHAUSTED),
        (r"concurren|in parallel|并发", ErrorKind.CONCURRENCY_LIMITED),
        (r"too many requests|rate limit|throttl|限流|频繁", ErrorKind.RATE_LIMITED),
        (r"server is busy|overload|繁忙", ErrorKind.OVERLOADED),
        (r"inappropriate|(?<![\w-])sensitive|违规|敏感|DataInspection", ErrorKind.MODERATION_INPUT),
        (r"timed? ?out|超时", ErrorKind.PROVIDER_TIMEOUT),
        (r"inference failed|out of memory|internal (?:server )?error", ErrorKind.PROVIDER_FAULT),
        (r"invalid (?:param|size|value|request)|out of range|参数", ErrorKind.INVALID_REQUEST),
    )
)  # fmt: skip
_OUTPUT_WORDS = re.compile(r"generated image|output image|image generated|生成的?图", re.IGNORECASE)

# Kinds of statuses that stand for many things. The other statuses are clear, so their words do not count.
_VAGUE = (
    ErrorKind.INVALID_REQUEST,
    ErrorKind.PERMISSION,
    ErrorKind.UNSUPPORTED,
    ErrorKind.PROVIDER_FAULT,
    ErrorKind.UNKNOWN,
)
# Beginnings of messages about the account or the server: a quoted prompt does not stand at the beginning.
_SENTENCES: tuple[tuple[re.Pattern[str], ErrorKind], ...] = (
    (re.compile(r"authentication failed, please|please (?:first )?bind your|请先?(?:绑定|完成实名)", re.IGNORECASE),
     ErrorKind.AUTH),
    (re.compile(r"(?:the )?(?:server|service|system) is (?:busy|overloaded)|(?:服务器?|系统)繁忙", re.IGNORECASE),
     ErrorKind.OVERLOADED),
)  # fmt: skip


def refusal(answer: Answer, host: str) -> ProviderError:
    """A submit that was refused: by its status, or by an error in the body of a 2xx."""
    code, message = _code_and_message(answer)
    kind = _of_refusal(answer, code, message)
    return refused(answer, host, kind, message, code=code, request_id=request_id(answer))


def task_failure(answer: Answer, host: str) -> ProviderError:
    """A task that ended without a picture.

    The cost of failed tasks is not documented, so each may have been charged. An unreadable reason may be a
    moderation, so the task is tried once more at most.
    """
    code, message = _code_and_message(answer)
    known = _CODES.get(code.lower())
    kind = known or _by_words(message) or ErrorKind.UNKNOWN
    if kind is ErrorKind.UNSUPPORTED:
        kind = ErrorKind.UNKNOWN  # the call was accepted, so the words mislead
    return ProviderError(
        kind,
        f"The task failed: {message}" if message else f"{host} ended the task without a picture or a reason.",
        provider_code=code or None,
        http_status=answer.status,
        request_id=request_id(answer),
        # The call was accepted: another try is another task, so it costs the job an attempt.
        retry=Retry.BACKOFF if known is None and _is_the_accounts(kind) else None,
    ).of_accepted_call()


def poll_refusal(answer: Answer, host: str) -> ProviderError:
    """A poll without news; see `poll_refused`. `task_lost`: the API itself reports that there is no such task."""
    code, message = _code_and_message(answer)
    gone = says_task_is_gone(answer.status, message)
    kind = ErrorKind.TASK_LOST if gone else _of_refusal(answer, code, message)
    return poll_refused(answer, host, kind, message, code=code, request_id=request_id(answer))


def request_id(answer: Answer) -> str | None:
    """The provider's name for the call, in the body or in a header."""
    document = json_object(answer.body) or {}
    found = document.get("request_id") or error_object(answer.body).get("request_id")
    return word(found) or answer.headers.get("x-request-id")


def _code_and_message(answer: Answer) -> tuple[str, str]:
    document = json_object(answer.body) or {}
    error: Mapping[str, Any] = error_object(answer.body)
    return word(error.get("code")) or word(document.get("code")), word(error.get("message"))


def _of_refusal(answer: Answer, code: str, message: str) -> ErrorKind:
    if known := _CODES.get(code.lower()):
        return known
    kind = kind_without_code(answer.status, answer.headers, message)
    if answer.status == 429:
        return _which_throttle(kind, answer.headers, message)
    if kind not in _VAGUE:
        return kind
    if begun := next((found for sentence, found in _SENTENCES if sentence.match(message)), None):
        return begun
    by_words = _by_words(message)
    return kind if by_words is None or _is_the_accounts(by_words) else by_words


def _is_the_accounts(kind: ErrorKind) -> bool:
    """Whether a kind stops or slows the account. Words that may be a prompt's must not do that."""
    return RULES[kind].retry in (Retry.AFTER_THROTTLE, Retry.PAUSE_QUOTA)


def _by_words(text: str) -> ErrorKind | None:
    kind = next((kind for pattern, kind in _WORDS if pattern.search(text)), None)
    if kind is ErrorKind.MODERATION_INPUT and _OUTPUT_WORDS.search(text):
        return ErrorKind.MODERATION_OUTPUT
    return kind


def _which_throttle(kind: ErrorKind, headers: Mapping[str, str], message: str) -> ErrorKind:
    """A 429 is a used-up day, or too many calls at a time. The headers of the day are optional, so words count too."""
    by_words = _by_words(message)
    if by_words in (ErrorKind.QUOTA_EXHAUSTED, ErrorKind.CONCURRENCY_LIMITED):
        return by_words
    spent = any(
        headers.get(f"modelscope-ratelimit-{what}-remaining") == "0"
        for what in ("requests", "model-requests")
    )
    return ErrorKind.QUOTA_EXHAUSTED if spent else kind
