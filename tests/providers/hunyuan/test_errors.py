"""Every code that Tencent documents is sorted, and so is any odd answer."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import Generated, Pending, Submitted
from providers.errors import Charged, ErrorKind, ProviderError, Retry, Scope
from providers.http.client import Answer
from providers.hunyuan.provider import HunyuanProvider, create
from tests.providers.conformance import Canned
from tests.providers.conftest import Serve
from tests.providers.hunyuan.rig import (
    TASK_WIRES,
    WIRES,
    Wires,
    tencent_error,
    tokenhub_error,
    wanted,
)

TENCENT_CODES = {
    "rate_limited": """RequestLimitExceeded RequestLimitExceeded.UinLimitExceeded
        RequestLimitExceeded.GlobalRegionUinLimitExceeded FailedOperation.EngineServerLimitExceeded""",
    "concurrency_limited": "RequestLimitExceeded.JobNumExceed",
    "quota_exhausted": "LimitExceeded",
    "moderation_input": """OperationDenied.TextIllegalDetected OperationDenied.ImageIllegalDetected
        FailedOperation.ModerationFailed FailedOperation.TextIllegalDetected""",
    "moderation_output": "FailedOperation.GenerateImageFailed",
    "billing_exhausted": """ResourceUnavailable.InArrears ResourceUnavailable.LowBalance
        ResourceUnavailable.StopUsing ResourceInsufficient.ChargeResourceExhaust
        ResourcesSoldOut.ChargeStatusException FailedOperation.ResourcePackExhausted
        FailedOperation.FreeResourcePackExhausted FailedOperation.ServiceStop
        FailedOperation.ServiceStopArrears""",
    "permission": """ResourceUnavailable.NotExist ResourceUnavailable.Delivering
        FailedOperation.ServiceNotActivated FailedOperation.UserUnAuthError
        FailedOperation.PartnerAccountUnSupport UnsupportedRegion""",
    "auth": """AuthFailure.SignatureFailure AuthFailure.SignatureExpire AuthFailure.SecretIdNotFound
        AuthFailure.InvalidSecretId AuthFailure.TokenFailure AuthFailure.UnauthorizedOperation
        UnauthorizedOperation""",
    "invalid_request": """InvalidParameter InvalidParameterValue InvalidParameterValue.TextLengthExceed
        InvalidParameterValue.UrlIllegal InvalidParameterValue.StyleConflict
        InvalidParameterValue.LogoParamErr InvalidParameterValue.ImageEmpty
        InvalidParameterValue.NotExist MissingParameter UnknownParameter
        FailedOperation.ImageDecodeFailed FailedOperation.ImageResolutionExceed
        FailedOperation.ImageSizeExceed FailedOperation.RequestEntityTooLarge""",
    "input_fetch": "FailedOperation.ImageDownloadError FailedOperation.DownloadError",
    "unsupported": "ActionOffline NoSuchVersion InvalidAction",
    "provider_fault": """InternalError InternalError.Any FailedOperation.InnerError FailedOperation.ServerError
        FailedOperation.RpcFail FailedOperation.EngineServerError FailedOperation.ConsoleServerError
        FailedOperation.Unknown FailedOperation FailedOperation.NeverHeardOf""",
    "provider_timeout": "FailedOperation.RequestTimeout FailedOperation.EngineRequestTimeout",
    "overloaded": "ServiceUnavailable",
    "unknown": "NeverHeardOf",
}
EVERY_CODE = [(code, kind) for kind, codes in TENCENT_CODES.items() for code in codes.split()]


@pytest.fixture
def wires(stack: AsyncExitStack) -> Wires:
    return Wires(stack)


SECRETS = {"secret_id": "id", "secret_key": "key", "api_key": "key"}
EVERY_WIRE: dict[str, HunyuanProvider] = {
    wire: create(base_url="http://127.0.0.1:9", secrets=SECRETS, options={"wire": wire}) for wire in WIRES
}


def answer(body: bytes | dict[str, Any], status: int = 200, **headers: str) -> Answer:
    named = {"content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return Answer(
        status, httpx2.Headers(named), bytearray(body if isinstance(body, bytes) else orjson.dumps(body))
    )


def refused(wire: str, given_: Answer) -> ProviderError:
    """The wire's reading of this answer to a submit."""
    with pytest.raises(ProviderError) as caught:
        EVERY_WIRE[wire]._accepted(given_, wanted(wire))
    return caught.value


def poll_refused(wire: str, given_: Answer) -> ProviderError:
    """The wire's reading of this answer to a poll."""
    with pytest.raises(ProviderError) as caught:
        EVERY_WIRE[wire]._progress(given_)
    return caught.value


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "text/plain"]
)
@pytest.mark.parametrize(("code", "kind"), EVERY_CODE)
def test_a_refusal_with_http_status_200_is_sorted_by_its_code(
    code: str, kind: str, content_type: str
) -> None:
    error = refused("tc3", answer(tencent_error(code), content_type=content_type))
    assert (error.kind.value, error.provider_code) == (kind, code)
    assert (error.http_status, error.request_id) == (200, "rid-1")


def ended(code: str, message: str = "no") -> dict[str, Any]:
    """The answer to a poll of a job that failed."""
    fields = {"JobStatusCode": "4", "JobErrorCode": code, "JobErrorMsg": message, "RequestId": "rid-1"}
    return {"Response": fields}


AFTER_ACCEPTANCE = {
    # A refusal at the door costs nothing; a later one costs an attempt.
    "rate_limited": "provider_fault",
    "concurrency_limited": "provider_fault",
    "overloaded": "provider_fault",
    "unknown": "provider_fault",
}


# A code that is known only by the part before the dot is unknown without that part.
BY_FAMILY = ("InternalError", "AuthFailure", "InvalidParameterValue")
BARE_CODES = [
    (code.rpartition(".")[2], kind)
    for code, kind in EVERY_CODE
    if "." in code and "Never" not in code and code.partition(".")[0] not in BY_FAMILY
]


@pytest.mark.parametrize(("code", "kind"), EVERY_CODE + BARE_CODES)
def test_a_job_that_failed_is_sorted_by_its_code_also_without_its_first_part(code: str, kind: str) -> None:
    error = poll_refused("tc3", answer(ended(code)))
    of_output = code.endswith(("ImageIllegalDetected", "ModerationFailed"))
    expected = "moderation_output" if of_output else AFTER_ACCEPTANCE.get(kind, kind)
    assert error.kind.value == expected
    assert error.charged is Charged.MAYBE, "what failed jobs cost is documented nowhere"


@pytest.mark.parametrize(("code", "kind"), EVERY_CODE)
def test_a_refused_poll_is_polled_again_and_a_limit_on_requests_keeps_its_kind(code: str, kind: str) -> None:
    error = poll_refused("tc3", answer(tencent_error(code)))
    expected = kind if kind in ("rate_limited", "concurrency_limited") else "poll_error"
    assert (error.kind.value, error.call_accepted) == (expected, False)
    assert error.provider_code == code


@pytest.mark.parametrize("code", ["FailedOperation.JobNotExist", "ResourceNotFound", "ResourceNotFound.Job"])
def test_a_poll_of_an_unknown_job_says_that_it_is_lost(code: str) -> None:
    assert poll_refused("tc3", answer(tencent_error(code))).kind is ErrorKind.TASK_LOST


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, tokenhub_error("404001", "The task does not exist."), ErrorKind.TASK_LOST),
        (400, tokenhub_error("", "no such task"), ErrorKind.TASK_LOST),
        (400, tokenhub_error("400001", "no such task"), ErrorKind.POLL_ERROR),
        (200, tokenhub_error("InternalError", "task not found in the cache"), ErrorKind.POLL_ERROR),
        (502, tokenhub_error("502001", upstream_code="FailedOperation.JobNotExist"), ErrorKind.TASK_LOST),
        (404, b"<html><h1>404 Not Found</h1></html>", ErrorKind.POLL_ERROR),
        (404, b"", ErrorKind.POLL_ERROR),
        (404, {"message": "no Route matched with those values"}, ErrorKind.POLL_ERROR),
        (404, {"error": {"message": "Not Found"}}, ErrorKind.POLL_ERROR),
        (503, tokenhub_error("503001", "The task service was not found."), ErrorKind.POLL_ERROR),
        (429, tokenhub_error("429001", "Too many requests."), ErrorKind.RATE_LIMITED),
        (429, b"", ErrorKind.RATE_LIMITED),
        (503, tokenhub_error("503001", "Try again."), ErrorKind.POLL_ERROR),
        (401, tokenhub_error("401002", "The task or its owner does not exist."), ErrorKind.POLL_ERROR),
    ],
)
def test_a_task_is_lost_if_the_api_itself_reports_it_and_not_for_any_404(
    status: int, body: Any, kind: ErrorKind
) -> None:
    assert poll_refused("tokenhub_async", answer(body, status)).kind is kind


def test_a_submit_can_lose_no_task() -> None:
    error = refused("tc3", answer(tencent_error("ResourceNotFound")))
    assert error.kind is ErrorKind.UNSUPPORTED


@pytest.mark.parametrize("wire", ["tokenhub_async", "tokenhub_sync"])
@pytest.mark.parametrize(
    ("code", "retry"), [("403001", Retry.PAUSE_QUOTA), ("", Retry.NEVER)], ids=["the account", "no code"]
)
def test_only_a_code_says_that_the_account_needs_a_person(wire: str, code: str, retry: Retry) -> None:
    assert refused(wire, answer(tokenhub_error(code), 403)).retry is retry


@pytest.mark.parametrize("wire", ["tokenhub_async", "tokenhub_sync"])
@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "400001", "no", "invalid_request"),
        (400, "400004", "no", "invalid_request"),
        (401, "401002", "no", "auth"),
        (402, "401007", "no", "billing_exhausted"),
        (402, "401008", "no", "billing_exhausted"),
        (402, "403004", "endpoint is inactive: FREE_QUOTA_EXHAUSTED", "billing_exhausted"),
        (403, "403001", "no", "permission"),
        (403, "403005", "no", "permission"),
        (429, "429001", "rate limit exceeded on dimension: rpm", "rate_limited"),
        (429, "429001", "limit exceeded on dimension: concurrency", "concurrency_limited"),
        (451, "451001", "no", "moderation_input"),
        (500, "500999", "no", "provider_fault"),
        (502, "502001", "no", "ambiguous_submit"),
        (503, "503001", "no", "overloaded"),
        (504, "", "no", "ambiguous_submit"),
        (200, "429001", "no", "rate_limited"),
        (200, "strange", "no", "unknown"),
    ],
)
def test_a_tokenhub_refusal_is_sorted_by_its_code_and_its_status(
    wire: str, status: int, code: str, message: str, kind: str
) -> None:
    error = refused(wire, answer(tokenhub_error(code, message), status))
    assert (error.kind.value, error.http_status, error.request_id) == (kind, status, "rid-1")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("生成图片审核不通过，请重试", ErrorKind.MODERATION_OUTPUT),
        ("The image hit the content filter.", ErrorKind.MODERATION_OUTPUT),
        ("Illegal state of the worker.", ErrorKind.PROVIDER_FAULT),
        ("", ErrorKind.PROVIDER_FAULT),
    ],
)
def test_a_tokenhub_task_that_failed_has_only_words_to_go_by(message: str, kind: ErrorKind) -> None:
    error = poll_refused("tokenhub_async", answer({"status": "failed", "error": {"message": message}}))
    assert (error.kind, error.charged) == (kind, Charged.MAYBE)


def test_an_upstream_code_says_more_than_the_gateways() -> None:
    body = tokenhub_error("502001", upstream_code="RequestLimitExceeded.JobNumExceed")
    error = refused("tokenhub_async", answer(body, 502))
    assert error.kind is ErrorKind.CONCURRENCY_LIMITED


def test_a_quoted_prompt_about_concurrency_is_no_limit_in_flight() -> None:
    error = refused("tc3", answer(tencent_error("RequestLimitExceeded", "no: 'concurrent rivers'")))
    assert error.kind is ErrorKind.RATE_LIMITED


def test_a_throttle_inside_a_success_may_be_charged_on_tokenhub() -> None:
    assert refused("tokenhub_async", answer(tokenhub_error("429001"))).charged is Charged.MAYBE
    assert refused("tc3", answer(tencent_error("RequestLimitExceeded"))).charged is Charged.NO


def test_rejected_content_of_a_whole_call_may_be_charged() -> None:
    rejected = answer(tokenhub_error("451001"), 451)
    assert refused("tokenhub_sync", rejected).charged is Charged.MAYBE
    assert refused("tokenhub_async", rejected).charged is Charged.NO


def test_a_very_long_wait_is_a_spent_allowance() -> None:
    canned = answer(tokenhub_error("429001"), 429, retry_after="7200")
    error = refused("tokenhub_sync", canned)
    assert (error.kind, error.retry_after_s) == (ErrorKind.QUOTA_EXHAUSTED, 7200)


def test_a_service_that_is_being_activated_is_waited_for() -> None:
    error = refused("tc3", answer(tencent_error("ResourceUnavailable.Delivering")))
    assert (error.retry, error.scope) == (Retry.AFTER_THROTTLE, Scope.KEY)
    assert error.retry_after_s == 60


@pytest.mark.parametrize(
    ("code", "says"), [("ActionOffline", "tokenhub_async"), ("UnsupportedRegion", "ap-guangzhou")]
)
def test_the_sentence_says_what_the_operator_can_do(code: str, says: str) -> None:
    assert says in (refused("tc3", answer(tencent_error(code)))).message


@pytest.mark.parametrize("status", [200, 429, 500, 503])
async def test_a_quoted_secret_is_not_shown_and_nothing_is_sent_again(
    wires: Wires, serve: Serve, status: int
) -> None:
    body = tencent_error("AuthFailure.SecretIdNotFound", "id q7plantedid and key q7plantedkey are wrong")
    canned = Canned(body, status, {"retry-after": "0"})
    planted = {"secret_id": "q7plantedid", "secret_key": "q7plantedkey"}
    provider = wires.open("tc3", await serve(canned.app), secrets=planted)
    for call in (provider.submit(wanted("tc3"), timeout_s=10), provider.poll(Submitted("7"))):
        with pytest.raises(ProviderError) as caught:
            await call
        shown = repr(caught.value) + str(caught.value) + str(caught.value.to_dict())
        assert "q7planted" not in shown
    assert len(canned.seen) == 2


# --- the result of a done task


def done(**fields: Any) -> dict[str, Any]:
    return {"Response": {"JobStatusCode": "5", "RequestId": "rid-1", **fields}}


def test_only_results_that_succeeded_count() -> None:
    body = done(
        ResultImage=["https://x/1", "https://x/2"],
        ResultDetails=["ServerError", "Success"],
        RevisedPrompt=["a nicer mug"],
    )
    generated = EVERY_WIRE["tc3"]._progress(answer(body))
    assert isinstance(generated, Generated)
    assert [picture.url for picture in generated.pictures] == ["https://x/2"]
    assert (generated.revised_prompt, generated.provider_request_id) == ("a nicer mug", "rid-1")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (
            {"ResultImage": ["https://x/1"], "ResultDetails": ["ModerationFailed"]},
            ErrorKind.MODERATION_OUTPUT,
        ),
        ({"ResultImage": ["https://x/1"], "ResultDetails": ["not so good"]}, ErrorKind.PROVIDER_FAULT),
        ({"ResultImage": [], "ResultDetails": []}, ErrorKind.NO_IMAGE),
        ({"ResultImage": None}, ErrorKind.NO_IMAGE),
        ({"ResultImage": [""], "ResultDetails": ["Success"]}, ErrorKind.NO_IMAGE),
    ],
)
def test_a_task_that_is_done_without_a_good_picture_has_failed(
    fields: dict[str, Any], kind: ErrorKind
) -> None:
    assert poll_refused("tc3", answer(done(**fields))).kind is kind


@pytest.mark.parametrize("status", ["1", "2", "3", "", 2, None])
def test_a_status_that_is_no_end_is_a_wait(status: Any) -> None:
    progress = EVERY_WIRE["tc3"]._progress(answer({"Response": {"JobStatusCode": status}}))
    assert isinstance(progress, Pending)


# --- statuses of success

ACCEPTED: dict[str, dict[str, Any]] = {
    "tc3": {"Response": {"JobId": "7", "RequestId": "rid-1"}},
    "tokenhub_async": {"id": "7", "status": "queued"},
    "tokenhub_sync": {"id": "7", "data": [{"url": "https://pictures.example/x.png"}]},
}


@pytest.mark.parametrize("status", [201, 202])
@pytest.mark.parametrize("wire", list(EVERY_WIRE))
def test_a_receipt_counts_with_any_status_of_success(wire: str, status: int) -> None:
    made = EVERY_WIRE[wire]._accepted(answer(ACCEPTED[wire], status), wanted(wire))
    assert isinstance(made, Generated) or made.task_id == "7"


@pytest.mark.parametrize("wire", ["tc3", "tokenhub_async"])
def test_the_standing_of_a_task_counts_with_any_status_of_success(wire: str) -> None:
    done_ = {
        "tc3": done(ResultImage=["https://x/1"]),
        "tokenhub_async": {"status": "completed", "data": [{"url": "u"}]},
    }
    assert isinstance(EVERY_WIRE[wire]._progress(answer(done_[wire], 202)), Generated)


# --- anything at all

names = st.sampled_from(
    [
        *("Response", "Error", "Code", "Message", "JobId", "JobStatusCode", "JobErrorCode", "ResultImage"),
        *("ResultDetails", "RevisedPrompt", "id", "status", "data", "url", "error", "code", "message"),
    ]
)
words = (
    st.sampled_from(["4", "5", "failed", "completed", "Success", "", "RequestLimitExceeded", "."]) | st.text()
)
scalars = st.none() | st.booleans() | st.integers(-5, 500) | words
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5)
)
enveloped = documents | st.dictionaries(names, documents, max_size=4).map(lambda fields: {"Response": fields})
bodies = st.binary(max_size=40) | enveloped.map(orjson.dumps)


@given(st.sampled_from(WIRES), st.sampled_from([200, 302, 400, 404, 429, 500, 502]), bodies)
def test_any_answer_is_a_result_or_one_of_our_errors(wire: str, status: int, body: bytes) -> None:
    with suppress(ProviderError):
        EVERY_WIRE[wire]._accepted(answer(body, status), wanted(wire))
    if wire in TASK_WIRES:
        with suppress(ProviderError):
            EVERY_WIRE[wire]._progress(answer(body, status))


@pytest.mark.parametrize("code", ["IpNotInWhitelist", "IpInBlacklist"])
def test_a_forbidden_address_concerns_this_machine_and_pauses_no_account(code: str) -> None:
    error = refused("tc3", answer(tencent_error(code)))
    assert (error.kind, error.retry, error.scope) == (
        ErrorKind.PERMISSION,
        Retry.AFTER_THROTTLE,
        Scope.MACHINE,
    )
    assert "address of this machine" in error.message
