"""Tencent's error codes.

API 3.0 (TC3) refuses with HTTP 200 and `{"Response": {"Error": {"Code", "Message"}}}`; TokenHub with a status and
`{"error": {"type", "code", "message"}}`. After a task was accepted, a code says less: nothing documents the charge.

Sources: the error code modules of Tencent's SDK for aiart and hunyuan, cloud.tencent.com/document/api/1140/51177
(common codes) and /document/product/1823/131595 (TokenHub), as of 2026-11.
"""

from __future__ import annotations

import platform
import re
from typing import Any

import httpx2

from providers.errors import ErrorKind, ProviderError, Retry, Scope
from providers.http.client import Answer
from providers.retry_after import date_s
from providers.shared.answers import json_object
from providers.shared.refusals import by_code, kind_without_code, poll_refused, refused, says_task_is_gone

_CODES = by_code(
    rate_limited="""
        RequestLimitExceeded.UinLimitExceeded RequestLimitExceeded.GlobalRegionUinLimitExceeded
        FailedOperation.EngineServerLimitExceeded 429001""",
    concurrency_limited="RequestLimitExceeded.JobNumExceed",
    moderation_input="""
        OperationDenied.TextIllegalDetected OperationDenied.ImageIllegalDetected FailedOperation.ModerationFailed
        451001""",
    # Its text says that the generated picture did not pass the review.
    moderation_output="FailedOperation.GenerateImageFailed",
    billing_exhausted="""
        ResourceUnavailable.InArrears ResourceUnavailable.LowBalance ResourceUnavailable.StopUsing
        ResourceInsufficient.ChargeResourceExhaust ResourcesSoldOut.ChargeStatusException
        FailedOperation.ResourcePackExhausted FailedOperation.FreeResourcePackExhausted
        FailedOperation.ServiceStop FailedOperation.ServiceStopArrears 401007 401008 403004""",
    permission="""
        ResourceUnavailable.NotExist ResourceUnavailable.Delivering FailedOperation.ServiceNotActivated
        FailedOperation.UserUnAuthError FailedOperation.PartnerAccountUnSupport 403001 403002 403005""",
    auth="401002",
    invalid_request="""
        FailedOperation.ImageDecodeFailed FailedOperation.ImageResolutionExceed FailedOperation.ImageSizeExceed
        FailedOperation.RequestEntityTooLarge 400001 400002 400004""",
    input_fetch="FailedOperation.ImageDownloadError FailedOperation.DownloadError",
    task_lost="FailedOperation.JobNotExist",
    provider_timeout="FailedOperation.RequestTimeout FailedOperation.EngineRequestTimeout",
    provider_fault="""
        FailedOperation.InnerError FailedOperation.ServerError FailedOperation.RpcFail
        FailedOperation.EngineServerError FailedOperation.ConsoleServerError FailedOperation.Unknown""",
)
# A task's error code may lack its first part, and codes with several first parts share one last part.
_LAST_PARTS = {code.rpartition(".")[2]: kind for code, kind in _CODES.items()}
# The part before the dot decides about unknown codes.
_FAMILIES = by_code(
    rate_limited="RequestLimitExceeded",
    # The code does not name the quota; an operator must look.
    quota_exhausted="LimitExceeded",
    auth="AuthFailure UnauthorizedOperation",
    # The credential names the region, and the machine its address, so no job can change them.
    permission="UnsupportedRegion IpInBlacklist IpNotInWhitelist",
    invalid_request="""
        InvalidParameter InvalidParameterValue InvalidParameterValueError MissingParameter UnknownParameter
        InvalidRequest RequestSizeLimitExceeded UnsupportedProtocol""",
    unsupported="ActionOffline NoSuchVersion NoSuchProduct InvalidAction UnsupportedOperation",
    task_lost="ResourceNotFound",
    overloaded="ServiceUnavailable",
    provider_fault="InternalError FailedOperation",
    moderation_input="OperationDenied",
)

_HINTS = {
    "UnsupportedRegion": "Set the credential's `region`; the documentation names ap-guangzhou.",
    "IpInBlacklist": "Take the address of this machine off the deny list of the account.",
    "IpNotInWhitelist": "Put the address of this machine on the allow list of the account.",
    "ActionOffline": 'Tencent has retired this API: set the credential\'s `wire` to "tokenhub_async" and give it'
    " an `api_key`.",
}
_TRANSIENT_ACTIVATION = "Delivering"  # the service was just activated; takes minutes
_ACTIVATION_WAIT_S = 60.0
EXPIRED_SIGNATURE = "AuthFailure.SignatureExpire"
# Every other replica may have a right clock and a permitted address.
_OF_THIS_MACHINE = frozenset({EXPIRED_SIGNATURE, "IpInBlacklist", "IpNotInWhitelist"})
# TokenHub has one code for all limits, and names the limit at the end of its message.
_IN_FLIGHT = re.compile(r"limit exceeded on dimension: (?=\w*concurren)\w++\W*$", re.IGNORECASE)
_MODERATION_WORDS = re.compile(
    r"审核|违规|敏感|sensitive|moderation|content.filter|illegal (?:content|text|image)", re.IGNORECASE
)


def kind_of_code(code: str) -> ErrorKind | None:
    """The kind of a code, of either wire, in the answer to a submit; None if it is not known."""
    family, last = code.partition(".")[0], code.rpartition(".")[2]
    says_little = family == "FailedOperation" or family not in _FAMILIES
    return _CODES.get(code) or (_LAST_PARTS.get(last) if says_little else None) or _FAMILIES.get(family)


def refusal(answer: Answer, host: str, now_s: float) -> ProviderError:
    """The error of a refused submit: its status is not 200, or its body holds an error.

    `now_s` is the Unix time of this machine, to measure how wrong its clock is.
    """
    error = error_object(answer.body)
    code = error.get("code", "")
    kind = _kind(answer, error)
    kind = ErrorKind.UNSUPPORTED if kind is ErrorKind.TASK_LOST else kind
    of_machine = code in _OF_THIS_MACHINE
    activating = code.endswith(f".{_TRANSIENT_ACTIVATION}")
    found = refused(
        answer,
        host,
        kind,
        _message(answer, host, error, now_s),
        words=error.get("message", ""),
        code=code or error.get("type", ""),
        request_id=error.get("request_id"),
        scope=Scope.MACHINE if of_machine else Scope.KEY if kind is ErrorKind.PERMISSION else None,
        retry=Retry.AFTER_THROTTLE
        if of_machine or activating
        # Each of these codes is about the account (a service, a region, a real name), and only a person can mend it.
        else Retry.PAUSE_QUOTA
        if kind_of_code(code) is ErrorKind.PERMISSION
        else None,
        # TC3 refuses with HTTP 200.
        call_accepted=answer.accepted and "Response" not in (json_object(answer.body) or {}),
    )
    if activating:
        found.retry_after_s = _ACTIVATION_WAIT_S
    return found


def poll_refusal(answer: Answer, host: str, now_s: float) -> ProviderError:
    """The error of a refused poll, see `poll_refused`. The receipt stays good, unless the task itself is unknown."""
    error = error_object(answer.body)
    code = error.get("code", "")
    in_words = kind_of_code(code) is None and says_task_is_gone(answer.status, error.get("message", ""))
    return poll_refused(
        answer,
        host,
        ErrorKind.TASK_LOST if in_words else _kind(answer, error),
        _message(answer, host, error, now_s),
        code=code or error.get("type", ""),
        request_id=error.get("request_id"),
    )


def task_failure(code: str, message: str, request_id: str | None) -> ProviderError:
    """The error of an accepted task that ended without a picture."""
    kind = kind_of_code(code) or ErrorKind.PROVIDER_FAULT
    last = code.rpartition(".")[2]
    if last in ("ImageIllegalDetected", "ModerationFailed") or (
        not code and _MODERATION_WORDS.search(message)
    ):
        kind = ErrorKind.MODERATION_OUTPUT
    elif kind in (ErrorKind.RATE_LIMITED, ErrorKind.CONCURRENCY_LIMITED, ErrorKind.OVERLOADED):
        # An accepted call is an attempt. A wait that costs no attempt could repeat, and be charged, without end.
        kind = ErrorKind.PROVIDER_FAULT
    return ProviderError(
        kind,
        message or f"The task failed with code {code or 'unknown'}.",
        provider_code=code or None,
        http_status=200,
        request_id=request_id,
    ).of_accepted_call()


def error_object(body: bytes | bytearray) -> dict[str, str]:
    """The error in a body of either wire, its fields in lower case as text; empty if it holds none."""
    document = json_object(body) or {}
    response = document.get("Response")
    if isinstance(response, dict):
        error, outer = response.get("Error"), {"request_id": response.get("RequestId")}
    else:
        error, outer = document.get("error"), {"request_id": document.get("request_id")}
    if isinstance(error, str) and error:
        error = {"message": error}
    if not isinstance(error, dict) or not error:
        return {}
    return {**_texts(outer), **_texts(error)}


def _kind(answer: Answer, error: dict[str, str]) -> ErrorKind:
    message = error.get("message", "")
    kind = kind_of_code(error.get("upstream_code", "")) or kind_of_code(error.get("code", ""))
    if kind is ErrorKind.RATE_LIMITED and _IN_FLIGHT.search(message):
        return ErrorKind.CONCURRENCY_LIMITED
    return kind or kind_without_code(answer.status, answer.headers, message)


def clock_ahead_s(headers: httpx2.Headers, now_s: float) -> float | None:
    """How far the clock of this machine is ahead of the provider's (s); None if the answer has no Date."""
    server_s = date_s(headers.get("date"))
    return None if server_s is None else now_s - server_s


def _message(answer: Answer, host: str, error: dict[str, str], now_s: float) -> str:
    code = error.get("code", "")
    sentences = [
        _clock_sentence(answer.headers, now_s) if code == EXPIRED_SIGNATURE else "",
        error.get("message", "")
        or f"{host} answered with HTTP status {answer.status} and no readable explanation.",
        _HINTS.get(code, ""),
    ]
    return " ".join(filter(None, sentences))


def _clock_sentence(headers: httpx2.Headers, now_s: float) -> str:
    """A sentence with the wrong clock, the difference if it is known, and the remedy."""
    ahead_s = clock_ahead_s(headers, now_s)
    if ahead_s is None:
        off = "more than 5 minutes off"
    else:
        off = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the provider's"
    return f"The clock of {platform.node()} is {off}, so its signature was refused: set that clock (NTP)."


def _texts(fields: dict[str, Any]) -> dict[str, str]:
    return {
        name.lower(): str(value)
        for name, value in fields.items()
        if value is not None and not isinstance(value, dict | list)
    }
