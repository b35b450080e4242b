"""What ModelScope's API-Inference says when it makes no picture, sorted into our taxonomy.

Three kinds of bad news: a submit that was refused, a task that failed, and a poll that was refused, which says
nothing of its task. Codes are rare, so the status counts next, and the words of the message where it is vague; how
far those are believed, see `providers.shared.statuses`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers.errors import RULES, ErrorKind, ProviderError, Retry
from providers.http.client import Answer, parse_retry_after
from providers.shared.refusals import error_object, json_object, says_task_is_gone, word
from providers.shared.statuses import kind_without_code, with_wait

# Source: code that calls the service (QuotaLimitExceed), Aliyun's content check (DataInspection...).
_CODES: dict[str, ErrorKind] = {
    "quotalimitexceed": ErrorKind.QUOTA_EXHAUSTED,
    "quotalimitexceeded": ErrorKind.QUOTA_EXHAUSTED,
    "datainspectionfailed": ErrorKind.MODERATION_INPUT,
}

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

# Statuses that stand for many things; the others are taken at their word.
_VAGUE = frozenset(
    {
        ErrorKind.INVALID_REQUEST,
        ErrorKind.PERMISSION,
        ErrorKind.UNSUPPORTED,
        ErrorKind.PROVIDER_FAULT,
        ErrorKind.UNKNOWN,
    }
)
# Sentences about the account or the server that a message consists of: a prompt that is quoted does not begin one.
_SENTENCES: tuple[tuple[re.Pattern[str], ErrorKind], ...] = (
    (re.compile(r"authentication failed, please|please (?:first )?bind your|请先?(?:绑定|完成实名)", re.IGNORECASE),
     ErrorKind.AUTH),
    (re.compile(r"(?:the )?(?:server|service|system) is (?:busy|overloaded)|(?:服务器?|系统)繁忙", re.IGNORECASE),
     ErrorKind.OVERLOADED),
)  # fmt: skip


def refusal(answer: Answer, host: str) -> ProviderError:
    """A submit that was refused: by its status, or by an error in the body of a 2xx."""
    error = error_object(answer.body)
    message = word(error.get("message"))
    code = _code(answer, error)
    kind, retry_after_s = with_wait(_of_refusal(answer, code, message), answer.headers, message)
    refused = ProviderError(
        kind,
        message or f"{host} answered with HTTP status {answer.status} and no readable explanation.",
        provider_code=code or None,
        http_status=answer.status,
        retry_after_s=retry_after_s,
        request_id=request_id(answer),
    )
    return refused.let_in() if answer.accepted else refused


def task_failure(answer: Answer, host: str) -> ProviderError:
    """A task that ended without a picture.

    What failed tasks cost is not documented, so all may have been charged. A reason that nobody can read may be a
    moderation, so it is tried once more at most.
    """
    error = error_object(answer.body)
    message = word(error.get("message"))
    code = _code(answer, error)
    known = _CODES.get(code.lower())
    kind = known or _by_words(message) or ErrorKind.UNKNOWN
    if kind is ErrorKind.UNSUPPORTED:
        kind = ErrorKind.UNKNOWN  # it was let in, so the words mislead
    return ProviderError(
        kind,
        f"The task failed: {message}" if message else f"{host} ended the task without a picture or a reason.",
        provider_code=code or None,
        http_status=answer.status,
        request_id=request_id(answer),
        # It was not turned away at the door: another try is another task, so it costs the job an attempt.
        retry=Retry.BACKOFF if known is None and _is_the_accounts(kind) else None,
    ).let_in()


def poll_refusal(answer: Answer, host: str) -> ProviderError:
    """A poll without news: `poll_error`, or `task_lost` where the API itself says that there is no such task."""
    error = error_object(answer.body)
    message = word(error.get("message"))
    return ProviderError(
        ErrorKind.TASK_LOST if says_task_is_gone(answer.status, message) else ErrorKind.POLL_ERROR,
        message or f"{host} answered a poll with HTTP status {answer.status} and nothing about the task.",
        provider_code=_code(answer, error) or None,
        http_status=answer.status,
        retry_after_s=parse_retry_after(answer.headers, message),
        request_id=request_id(answer),
    )


def request_id(answer: Answer) -> str | None:
    """What the provider calls the call, wherever it says so."""
    document = json_object(answer.body) or {}
    said = document.get("request_id") or error_object(answer.body).get("request_id")
    return word(said) or answer.headers.get("x-request-id")


def _code(answer: Answer, error: Mapping[str, Any]) -> str:
    return word(error.get("code")) or word((json_object(answer.body) or {}).get("code"))


def _of_refusal(answer: Answer, code: str, message: str) -> ErrorKind:
    if known := _CODES.get(code.lower()):
        return known
    kind = kind_without_code(answer.status, answer.headers, message)
    if answer.status == 429:
        return _which_throttle(kind, answer.headers, message)
    if kind not in _VAGUE:
        return kind
    if said := next((said for sentence, said in _SENTENCES if sentence.match(message)), None):
        return said
    said = _by_words(message)
    return kind if said is None or _is_the_accounts(said) else said


def _is_the_accounts(kind: ErrorKind) -> bool:
    """Whether a kind stops or slows the account: words that may be those of a prompt must not."""
    return RULES[kind].retry in (Retry.AFTER_THROTTLE, Retry.PAUSE_QUOTA)


def _by_words(text: str) -> ErrorKind | None:
    kind = next((kind for pattern, kind in _WORDS if pattern.search(text)), None)
    if kind is ErrorKind.MODERATION_INPUT and _OUTPUT_WORDS.search(text):
        return ErrorKind.MODERATION_OUTPUT
    return kind


def _which_throttle(kind: ErrorKind, headers: Mapping[str, str], message: str) -> ErrorKind:
    """A 429 is a day that is used up, or too much at a time. The day's headers are optional, so words count too."""
    said = _by_words(message)
    if said in (ErrorKind.QUOTA_EXHAUSTED, ErrorKind.CONCURRENCY_LIMITED):
        return said
    spent = any(
        headers.get(f"modelscope-ratelimit-{what}-remaining") == "0"
        for what in ("requests", "model-requests")
    )
    return ErrorKind.QUOTA_EXHAUSTED if spent else kind
