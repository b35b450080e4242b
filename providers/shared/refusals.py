"""Sorts refusals: by the code of the body, then by status and headers, and last by the words of the message.

Words count only where they cannot mislead. A refusal may quote the prompt, and a prompt may speak of billing or
quotas, so its words decide at most about that job. A 429 concerns the account alone, so its words may decide about
the account. Pages, and the words of a provider behind this one, are never searched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from providers.errors import RULES, ErrorKind, ProviderError, Retry, Scope
from providers.http.client import Answer
from providers.retry_after import THROTTLE_LIMIT_S, has_wait, parse_retry_after


def by_code(**codes: str) -> dict[str, ErrorKind]:
    """A table from each code to its kind; each argument lists the codes of one kind, separated by spaces."""
    return {code: ErrorKind(kind) for kind, listed in codes.items() for code in listed.split()}


_STATUSES = by_code(
    auth="401",
    billing_exhausted="402",
    permission="403",
    unsupported="404 410",
    overloaded="409 503 529",
    rate_limited="425 429",
    moderation_input="451",
    # An edge that lost its backend cannot say whether the backend made and billed a picture.
    ambiguous_submit="408 502 504 520 524",
)
_MOVED = frozenset({301, 308})  # for good: the request is to be sent elsewhere, now and later
_ELSEWHERE_FOR_NOW = 307
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
# Kinds of refused polls that callers act on: one is about the task, the others slow down the account's polls.
_OF_POLLS = frozenset({ErrorKind.TASK_LOST, ErrorKind.RATE_LIMITED, ErrorKind.CONCURRENCY_LIMITED})
# Statuses that may concern one task; the others concern keys, rates, or a server in trouble.
_OF_ONE_TASK = frozenset({200, 400, 404, 410, 422})
_GONE = re.compile(
    r"task.{0,80}\b(?:not (?:found|exists?)|no longer exists?|expired)|no such task|任务.{0,40}不存在",
    re.IGNORECASE,
)


def refused(
    answer: Answer,
    host: str,
    kind: ErrorKind,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    words: str | None = None,
    code: str = "",
    request_id: str | None = None,
    field: str | None = None,
    scope: Scope | None = None,
    retry: Retry | None = None,
    call_accepted: bool | None = None,
) -> ProviderError:
    """The error of a call that was refused, with the wait that the answer wishes.

    `headers` and `words` default to the answer's headers and to `message`. `call_accepted` defaults to whether the
    status is one of success.
    """
    kind, retry_after_s = _with_wait(
        kind, answer.headers if headers is None else headers, message if words is None else words
    )
    error = ProviderError(
        kind,
        message or f"{host} answered with HTTP status {answer.status} and no readable explanation.",
        field=field,
        provider_code=code or None,
        http_status=answer.status,
        retry_after_s=retry_after_s,
        request_id=request_id,
        scope=scope,
        retry=retry,
    )
    accepted = answer.accepted if call_accepted is None else call_accepted
    return error.of_accepted_call() if accepted else error


def redirected(answer: Answer, host: str, lost: ErrorKind) -> ProviderError:
    """The error of a call or poll that was answered with another address; `lost` as in `send_once`.

    A moved address took nothing, and only a person can set the new one. One that sends elsewhere for now took nothing
    either, and the call waits. After the other redirects the call may be done.
    """
    target = answer.headers.get("location") or "no address"
    message = (
        f"{host} redirects with HTTP status {answer.status} to {target}. The key is not sent after it: set the "
        "credential's `base_url` to the address that answers."
    )
    if lost is not ErrorKind.AMBIGUOUS_SUBMIT:
        return ProviderError(lost, message, http_status=answer.status)
    if answer.status == _ELSEWHERE_FOR_NOW:
        return ProviderError(ErrorKind.NETWORK_UNSENT, message, http_status=answer.status)
    if answer.status not in _MOVED:
        return ProviderError(ErrorKind.UNKNOWN, message, http_status=answer.status)
    return ProviderError(
        ErrorKind.UNSUPPORTED,
        message,
        http_status=answer.status,
        scope=Scope.KEY,
        retry=Retry.PAUSE_QUOTA,
    )


def poll_refused(
    answer: Answer, host: str, kind: ErrorKind, message: str, *, code: str, request_id: str | None
) -> ProviderError:
    """The error of a poll without news.

    `kind` is that of the same refusal at a submit, or `task_lost`. That one stays, and so does a limit on requests.
    Everything else becomes `poll_error`: poll the task again. A busy server or an empty balance silences no account.
    """
    return ProviderError(
        kind if kind in _OF_POLLS else ErrorKind.POLL_ERROR,
        message or f"{host} answered a poll with HTTP status {answer.status} and nothing about the task.",
        provider_code=code or None,
        http_status=answer.status,
        retry_after_s=parse_retry_after(answer.headers, message),
        request_id=request_id,
    )


def says_task_is_gone(status: int, message: str) -> bool:
    """Whether the refusal of a poll says in words that there is no such task.

    A 404 alone does not: gateways and edges in trouble send one too, and know nothing of tasks.
    """
    return status in _OF_ONE_TASK and _GONE.search(message) is not None


def status_of(answer: Answer, code: str) -> int:
    """The status that counts: some answers of 200 carry an error with its status as the `code`."""
    return int(code) if answer.status < 400 and code.isdecimal() and len(code) == 3 else answer.status


def kind_of_status(status: int) -> ErrorKind:
    """The kind of failure that a status stands for in the answer to a submit."""
    if status < 400:
        return ErrorKind.UNKNOWN
    default = ErrorKind.INVALID_REQUEST if status < 500 else ErrorKind.PROVIDER_FAULT
    return _STATUSES.get(str(status), default)


def kind_without_code(status: int, headers: Mapping[str, str], message: str) -> ErrorKind:
    """The kind of a refusal whose body has no known code.

    A 429 is a rate, a limit of parallel calls, a spent balance or a spent allowance: its message decides.
    """
    kind = kind_of_status(status)
    if kind is ErrorKind.RATE_LIMITED:
        return _which_throttle(message)
    return held_or_spent(headers) if kind is ErrorKind.BILLING_EXHAUSTED else kind


def held_or_spent(headers: Mapping[str, str]) -> ErrorKind:
    """A demand for payment that names a wait is about money that running calls hold; a spent balance names none."""
    return ErrorKind.BUDGET_IN_FLIGHT if has_wait(headers) else ErrorKind.BILLING_EXHAUSTED


def _which_throttle(message: str) -> ErrorKind:
    if _BILLING_WORDS.search(message):
        return ErrorKind.BILLING_EXHAUSTED
    if _CONCURRENCY_WORDS.search(message):
        return ErrorKind.CONCURRENCY_LIMITED
    return ErrorKind.QUOTA_EXHAUSTED if _ALLOWANCE_WORDS.search(message) else ErrorKind.RATE_LIMITED


def _with_wait(kind: ErrorKind, headers: Mapping[str, str], words: str) -> tuple[ErrorKind, float | None]:
    """The wait (s) that an answer wishes, and the kind that follows: a rate with hours to wait is used up.

    Words count only for kinds that can be waited for; the words of others may be a prompt's.
    """
    can_wait = RULES[kind].retry in (Retry.AFTER_THROTTLE, Retry.PAUSE_QUOTA)
    wait_s = parse_retry_after(headers, words if can_wait else "")
    if kind is ErrorKind.RATE_LIMITED and wait_s is not None and wait_s > THROTTLE_LIMIT_S:
        return ErrorKind.QUOTA_EXHAUSTED, wait_s
    return kind, wait_s
