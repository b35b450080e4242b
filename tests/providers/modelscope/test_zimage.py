"""ModelScope's wire: every answer and refusal, sorted; one request a submit; receipts that anyone can poll."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import InputImage, Pending, Provider, Request, Submitted
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.modelscope.models import rules_of
from providers.registry import create_provider
from providers.simulator.drawing import Drawing, draw
from tests.providers.conformance import ECHOED, Canned
from tests.providers.conftest import ZIMAGE_KEY as KEY
from tests.providers.conftest import OpenProvider, Serve

MODEL = "Tongyi-MAI/Z-Image-Turbo"
PNG = draw(Drawing("x", 1, 32, 32, plain=True))


@pytest.fixture
def provider(open_zimage: OpenProvider) -> Provider:
    """A provider at an address that must not be reached: for decisions before anything is sent."""
    return open_zimage("http://127.0.0.1:9")


def wanted(prompt: str = "a mug", **fields: Any) -> Request:
    given: dict[str, Any] = {"request_id": "r1", "model": MODEL} | fields
    return Request(prompt=prompt, **given)


async def submit_failure(provider: Provider, timeout_s: float = 10, **fields: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.submit(wanted(**fields), timeout_s=timeout_s)
    return caught.value


async def poll_failure(provider: Provider, task_id: str = "4a0c") -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.poll(Submitted(task_id))
    return caught.value


def errors(message: str, **more: Any) -> dict[str, Any]:
    return {"errors": {"message": message, **more}, "request_id": "req-12345"}


# --- requests


async def test_a_submit_is_one_async_request_and_its_answer_a_receipt(
    open_zimage: OpenProvider, serve: Serve
) -> None:
    canned = Canned({"task_status": "SUCCEED", "task_id": "4a0c", "request_id": "req-1"})
    provider = open_zimage(await serve(canned.app))
    request = wanted(
        size="1024x1024",
        seed=0,
        negative_prompt="text",
        params={"steps": 9, "guidance": 3.5, "loras": "a/one=0.6, b/two=0.4"},
    )
    receipt = await provider.submit(request, timeout_s=10)
    assert receipt == Submitted("4a0c", provider_request_id="req-1")
    assert canned.sent == {
        "model": MODEL,
        "prompt": "a mug",
        "negative_prompt": "text",
        "size": "1024x1024",
        "seed": 0,
        "steps": 9,
        "guidance": 3.5,
        "loras": {"a/one": 0.6, "b/two": 0.4},
    }
    (seen, _body) = canned.seen[0]
    assert (seen.method, seen.url.path, seen.url.query) == ("POST", "/v1/images/generations", "")
    assert seen.headers["x-modelscope-async-mode"] == "true"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert len(canned.seen) == 1


async def test_fields_that_a_job_omits_are_not_sent(open_zimage: OpenProvider, serve: Serve) -> None:
    canned = Canned({"task_id": "4a0c"})
    await open_zimage(await serve(canned.app)).submit(wanted(), timeout_s=10)
    assert canned.sent == {"model": MODEL, "prompt": "a mug"}


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_base_address_may_be_written_with_its_version(
    open_zimage: OpenProvider, serve: Serve, suffix: str
) -> None:
    canned = Canned({"task_id": "4a0c", "task_status": "RUNNING"})
    provider = open_zimage(await serve(canned.app) + suffix)
    await provider.submit(wanted(), timeout_s=10)
    await provider.poll(Submitted("4a0c"))
    assert [seen.url.path for seen, _ in canned.seen] == ["/v1/images/generations", "/v1/tasks/4a0c"]


@pytest.mark.parametrize("count", [1, 2])
async def test_pictures_to_edit_travel_inside_the_request(
    open_zimage: OpenProvider, serve: Serve, count: int
) -> None:
    canned = Canned({"task_id": "4a0c"})
    provider = open_zimage(await serve(canned.app))
    image = InputImage(PNG, "image/png")
    await provider.submit(wanted(model="Qwen/Qwen-Image-Edit", inputs=(image,) * count), timeout_s=10)
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert canned.sent["image_url"] == (url if count == 1 else [url, url])


async def test_a_poll_names_the_kind_of_task_and_buys_nothing(
    open_zimage: OpenProvider, serve: Serve
) -> None:
    canned = Canned({"task_id": "4a0c", "task_status": "PROCESSING", "request_id": "r"})
    provider = open_zimage(await serve(canned.app))
    assert await provider.poll(Submitted("4a0c")) == Pending("PROCESSING")
    (seen, body) = canned.seen[0]
    assert (seen.method, seen.url.path, body) == ("GET", "/v1/tasks/4a0c", b"")
    assert seen.headers["x-modelscope-task-type"] == "image_generation"


# --- submits that were refused


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            400,
            errors(
                "image-gen task currently does not support synchronous calls. Please set header "
                "X-ModelScope-Async-Mode=true to switch to asynchronous calling mode"
            ),
            "unsupported",
        ),
        (400, errors("Model id : x/y , has no provider supported"), "unsupported"),
        (400, errors("The size is wrong."), "invalid_request"),
        (400, errors("Input data may contain inappropriate content."), "moderation_input"),
        (400, errors("The generated image may contain sensitive content."), "moderation_output"),
        (400, errors("内容违规"), "moderation_input"),
        (400, errors("no", code="DataInspectionFailed"), "moderation_input"),
        (400, errors("DataInspection: rejected"), "moderation_input"),
        (400, errors("The name is case-sensitive."), "invalid_request"),
        (
            401,
            {
                "error": {
                    "message": "Authentication failed, please make sure that a valid ModelScope token is "
                    "supplied.",
                    "request_id": "r",
                }
            },
            "auth",
        ),
        (401, b"", "auth"),
        (402, errors("pay"), "billing_exhausted"),
        (403, errors("no"), "permission"),
        (403, errors("Please bind your Alibaba Cloud account first."), "auth"),
        (400, errors("Please bind your Alibaba Cloud account before use."), "auth"),
        (403, errors("请先完成实名认证"), "auth"),
        (404, errors("no such model"), "unsupported"),
        (408, b"", "ambiguous_submit"),
        (429, b"", "rate_limited"),
        (429, errors("Too many requests"), "rate_limited"),
        (429, errors("free allocated quota exceeded"), "quota_exhausted"),
        (429, errors("You have exceeded today's quota for this model."), "quota_exhausted"),
        (429, errors("no", code="QuotaLimitExceed"), "quota_exhausted"),
        (429, {"success": False, "code": "QuotaLimitExceed", "message": "no"}, "quota_exhausted"),
        (429, errors("Too many concurrent tasks"), "concurrency_limited"),
        (451, b"", "moderation_input"),
        (500, b"", "provider_fault"),
        (500, errors("Server is busy, please try again later"), "overloaded"),
        (502, b"<html><h1>502 Bad Gateway</h1></html>", "ambiguous_submit"),
        (503, b"", "overloaded"),
        (504, errors("Server is busy, please try again later"), "ambiguous_submit"),
        (524, b"error code: 524", "ambiguous_submit"),
        (200, errors("Server is busy, please try again later"), "overloaded"),
        (200, {"success": False, "code": "QuotaLimitExceed", "message": "no"}, "quota_exhausted"),
        (200, {"success": False, "message": "rate limit"}, "unknown"),
        (
            200,
            {"error": {"message": "Authentication failed, please make sure that a valid token is supplied."}},
            "auth",
        ),
        (200, errors("Invalid parameter: steps"), "invalid_request"),
        (200, errors("something odd"), "unknown"),
        (200, {"request_id": "r"}, "ambiguous_submit"),
        (200, {"task_id": "", "request_id": "r"}, "ambiguous_submit"),
        (200, {"task_id": "../../v1/other"}, "ambiguous_submit"),
        (200, b"<html>Please sign in.</html>", "bad_response"),
        (200, b"[1, 2]", "bad_response"),
        (200, b"", "bad_response"),
        (200, b"x" * 2_000_000, "bad_response"),
    ],
)
async def test_a_refused_submit_is_sorted(
    open_zimage: OpenProvider, serve: Serve, status: int, body: Any, kind: str
) -> None:
    canned = Canned(body, status)
    error = await submit_failure(open_zimage(await serve(canned.app)))
    assert error.kind == kind
    assert error.message
    assert len(canned.seen) == 1


@pytest.mark.parametrize("prompt", ECHOED)
async def test_a_prompt_that_a_failed_task_quotes_stops_and_slows_no_account(
    open_zimage: OpenProvider, serve: Serve, prompt: str
) -> None:
    canned = Canned({"task_status": "FAILED", **errors(f"Cannot draw: {prompt}")})
    assert (await poll_failure(open_zimage(await serve(canned.app)))).retry is not Retry.PAUSE_QUOTA


async def test_a_refusal_carries_the_providers_words_code_wait_and_request_id(
    open_zimage: OpenProvider, serve: Serve
) -> None:
    canned = Canned(errors("Slow down.", code="Throttled"), 429, {"retry-after": "12"})
    error = await submit_failure(open_zimage(await serve(canned.app)))
    assert (error.message, error.provider_code, error.retry_after_s, error.request_id) == (
        "Slow down.",
        "Throttled",
        12.0,
        "req-12345",
    )
    assert (error.retry, error.charged) == (Retry.AFTER_THROTTLE, Charged.NO)


@pytest.mark.parametrize("what", ["requests", "model-requests"])
@pytest.mark.parametrize(("left", "kind"), [("0", "quota_exhausted"), ("7", "rate_limited")])
async def test_a_429_on_a_day_that_is_used_up_is_no_throttle(
    open_zimage: OpenProvider, serve: Serve, what: str, left: str, kind: str
) -> None:
    canned = Canned(errors("no"), 429, {f"modelscope-ratelimit-{what}-remaining": left})
    assert (await submit_failure(open_zimage(await serve(canned.app)))).kind == kind


async def test_a_task_id_counts_more_than_the_rest_of_an_answer(
    open_zimage: OpenProvider, serve: Serve
) -> None:
    canned = Canned({"task_id": "4a0c", "message": "ok", "errors": {"message": ""}})
    receipt = await open_zimage(await serve(canned.app)).submit(wanted(), timeout_s=10)
    assert isinstance(receipt, Submitted)
    assert receipt.task_id == "4a0c"


# --- polls


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "PROCESSING", "QUEUED_SOMEWHERE_NEW"])
async def test_an_unfinished_task_is_pending_under_any_status_name(
    open_zimage: OpenProvider, serve: Serve, status: str
) -> None:
    canned = Canned({"task_id": "4a0c", "task_status": status, "message": "in the queue"})
    assert await open_zimage(await serve(canned.app)).poll(Submitted("4a0c")) == Pending(status)


async def test_a_pending_task_may_wish_a_pause(open_zimage: OpenProvider, serve: Serve) -> None:
    canned = Canned({"task_status": "RUNNING"}, headers={"retry-after": "6"})
    assert await open_zimage(await serve(canned.app)).poll(Submitted("4a0c")) == Pending("RUNNING", 6.0)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (errors("Model inference failed: Out of memory"), "provider_fault"),
        (errors("Task timed out"), "provider_timeout"),
        (errors("Server is busy, please try again later"), "overloaded"),
        (errors("The prompt may contain inappropriate words"), "moderation_input"),
        (errors("The output image is sensitive"), "moderation_output"),
        (errors("free allocated quota exceeded"), "quota_exhausted"),
        (errors("no", code="DataInspectionFailed"), "moderation_input"),
        (errors("Invalid parameter: size"), "invalid_request"),
        (errors("Authentication failed between two machines"), "unknown"),
        (errors("something odd"), "unknown"),
        ({"message": "Model inference failed"}, "provider_fault"),
        ({}, "unknown"),
    ],
)
async def test_a_failed_task_is_sorted_and_may_have_been_charged(
    open_zimage: OpenProvider, serve: Serve, body: dict[str, Any], kind: str
) -> None:
    canned = Canned({"task_id": "4a0c", "task_status": "FAILED", **body})
    error = await poll_failure(open_zimage(await serve(canned.app)))
    assert (error.kind, error.charged) == (kind, Charged.MAYBE)
    assert error.message


@pytest.mark.parametrize("message", ["Server is busy", "Too many requests", "Too many concurrent tasks"])
async def test_a_failed_task_is_no_throttle_and_costs_an_attempt(
    open_zimage: OpenProvider, serve: Serve, message: str
) -> None:
    canned = Canned({"task_status": "FAILED", **errors(message)})
    assert (await poll_failure(open_zimage(await serve(canned.app)))).retry is Retry.BACKOFF


@pytest.mark.parametrize("images", [None, [], "https://x/1.png", [None], [""]])
async def test_a_task_that_succeeds_without_a_picture_is_an_error(
    open_zimage: OpenProvider, serve: Serve, images: Any
) -> None:
    canned = Canned({"task_status": "SUCCEED", "output_images": images})
    assert (await poll_failure(open_zimage(await serve(canned.app)))).kind is ErrorKind.NO_IMAGE


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, errors("Authentication failed"), "poll_error"),
        (402, errors("pay"), "poll_error"),
        (403, b"", "poll_error"),
        (400, errors("bad header"), "poll_error"),
        (400, errors("task_id 4a0c does not exist"), "task_lost"),
        (404, errors("task not found"), "task_lost"),
        (404, errors("任务不存在"), "task_lost"),
        (404, errors("not found"), "poll_error"),
        (404, {"message": "no Route matched with those values"}, "poll_error"),
        (404, b"<html>nginx</html>", "poll_error"),
        (410, errors("The task has expired"), "task_lost"),
        (410, errors("gone"), "poll_error"),
        (403, errors("task 4a0c does not exist in this region"), "poll_error"),
        (503, errors("task executor not found"), "poll_error"),
        (429, errors("free allocated quota exceeded"), "poll_error"),
        (429, errors("slow down"), "rate_limited"),
        (429, errors("too many concurrent requests"), "concurrency_limited"),
        (409, errors("conflict"), "poll_error"),
        (503, errors("too many requests"), "poll_error"),
        (529, b"", "poll_error"),
        (500, errors("Server is busy, please try again later"), "poll_error"),
        (502, b"<html></html>", "poll_error"),
        (504, b"", "poll_error"),
        (302, b"", "poll_error"),
        (200, errors("Server is busy, please try again later"), "poll_error"),
        (200, errors("No such task"), "task_lost"),
        (200, b"<html>Please sign in.</html>", "poll_error"),
        (200, {"request_id": "r"}, "poll_error"),
        (200, b"x" * 2_000_000, "poll_error"),
    ],
)
async def test_a_poll_without_news_never_gives_up_a_task_that_may_be_paid_for(
    open_zimage: OpenProvider, serve: Serve, status: int, body: Any, kind: str
) -> None:
    error = await poll_failure(open_zimage(await serve(Canned(body, status).app)))
    assert error.kind == kind
    assert not error.call_accepted
    assert error.retry in (Retry.POLL_AGAIN, Retry.UNKNOWN_OUTCOME, Retry.AFTER_THROTTLE)


async def test_a_refused_poll_has_the_wait_that_the_provider_names(
    open_zimage: OpenProvider, serve: Serve
) -> None:
    canned = Canned(errors("slow down"), 429, {"retry-after": "9"})
    assert (await poll_failure(open_zimage(await serve(canned.app)))).retry_after_s == 9.0


@pytest.mark.parametrize("task_id", ["../../v1/images", "a/b", "", ".", "x" * 300])
async def test_a_receipt_of_something_else_is_not_made_a_part_of_an_address(
    provider: Provider, task_id: str
) -> None:
    assert (await poll_failure(provider, task_id)).kind is ErrorKind.TASK_LOST


# --- refusals free of charge


@pytest.mark.parametrize(
    ("field", "fields", "says"),
    [
        ("prompt", {"prompt": ""}, "empty"),
        ("prompt", {"prompt": "x" * 2000}, "at most 1999"),
        ("negative_prompt", {"negative_prompt": "x" * 2000}, "at most 1999"),
        ("size", {"size": "500x1024"}, "from 512x512 to 2048x2048"),
        ("size", {"size": "1024x2049"}, "from 512x512 to 2048x2048"),
        ("size", {"size": "1:5"}, "1:4 to 4:1"),
        ("size", {"size": "0:5"}, "not a ratio"),
        ("size", {"size": "large"}, '"16:9"'),
        ("size", {"size": "1280x720", "model": "black-forest-labs/FLUX.1-dev"}, "to 1024x1024"),
        ("size", {"size": "1665x64", "model": "Qwen/Qwen-Image"}, "to 1664x1664"),
        ("seed", {"seed": -1}, "0..2147483647"),
        ("seed", {"seed": 2**31}, "0..2147483647"),
        ("params.steps", {"params": {"steps": 0}}, "1 to 100"),
        ("params.steps", {"params": {"steps": 101}}, "1 to 100"),
        ("params.steps", {"params": {"steps": True}}, "1 to 100"),
        ("params.steps", {"params": {"steps": 9.5}}, "1 to 100"),
        ("params.guidance", {"params": {"guidance": 0.0}}, "1.5 to 20"),
        ("params.guidance", {"params": {"guidance": float("nan")}}, "1.5 to 20"),
        ("params.guidance", {"params": {"guidance": "3"}}, "1.5 to 20"),
        ("params.guidance_scale", {"params": {"guidance_scale": 3.5}}, "Did you mean 'guidance'?"),
        ("params.n", {"params": {"n": 4}}, "guidance, loras, steps"),
        ("params.loras", {"params": {"loras": "one"}}, "owner/name"),
        ("params.loras", {"params": {"loras": 7}}, "owner/name"),
        ("params.loras", {"params": {"loras": "a/one=0.6, a/two=0.5"}}, "add up to 1"),
        ("params.loras", {"params": {"loras": "a/one, a/two=1.0"}}, "add up to 1"),
        ("params.loras", {"params": {"loras": "a/one=0.5, a/one=0.5"}}, "different"),
        ("params.loras", {"params": {"loras": ",".join(f"a/{k}=0.1" for k in range(7))}}, "at most 6"),
        ("inputs", {"inputs": (InputImage(PNG, "image/png"),)}, "takes none"),
        (
            "inputs",
            {"inputs": (InputImage(PNG, "image/png", "mask"),), "model": "Qwen/Qwen-Image-Edit"},
            "no mask",
        ),
    ],
)
async def test_a_job_that_the_provider_would_refuse_is_not_sent(
    open_zimage: OpenProvider, serve: Serve, field: str, fields: dict[str, Any], says: str
) -> None:
    canned = Canned({"task_id": "4a0c"})
    error = await submit_failure(open_zimage(await serve(canned.app)), **{"prompt": "a mug", **fields})
    assert (error.kind, error.field, error.charged) == (ErrorKind.INVALID_REQUEST, field, Charged.NO)
    assert says in error.message
    assert not canned.seen


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "x" * 1999, "negative_prompt": "y" * 1999},
        {"size": "512x2048"},
        {"seed": 2**31 - 1},
        {"params": {"steps": 100, "guidance": 1.5}},
        {"params": {"loras": "owner/name"}},
        {"params": {"loras": "owner/name=1.0"}},
        {"size": "1664x64", "model": "Qwen/Qwen-Image"},
        {"size": "2048x2048", "model": "somebody/unheard-of"},
    ],
)
def test_values_just_inside_the_limits_are_accepted(provider: Provider, fields: dict[str, Any]) -> None:
    provider.check(wanted(**{"prompt": "a mug", **fields}))


@pytest.mark.parametrize(
    ("model", "size", "wire"),
    [
        (MODEL, "1:1", "1024x1024"),
        (MODEL, "16:9", "1360x768"),
        (MODEL, "1:4", "512x2048"),
        (MODEL, None, None),
        ("black-forest-labs/FLUX.1-dev", "16:9", "1024x576"),
        ("Qwen/Qwen-Image", "3:1", "1664x560"),
    ],
)
def test_ratios_become_sizes_that_the_model_takes(model: str, size: str | None, wire: str | None) -> None:
    assert rules_of(model).wire_size(size) == wire


@given(
    st.integers(1, 999),
    st.integers(1, 999),
    st.sampled_from([MODEL, "a/FLUX.1", "Qwen/Qwen-Image", "a/other"]),
)
def test_every_ratio_becomes_a_size_that_the_model_takes(width: int, height: int, model: str) -> None:
    rules = rules_of(model)
    try:
        size = rules.wire_size(f"{width}:{height}")
    except ValueError as error:
        assert "ratios may be" in str(error)  # noqa: PT017 (some ratios are accepted, some are not)
        assert max(width, height) / min(width, height) > rules.longest / rules.least * 0.9
        return
    assert size is not None
    assert rules.wire_size(size) == size
    w, h = map(int, size.split("x"))
    assert abs(w / h - width / height) < 0.15 * width / height


def test_the_operator_may_let_further_parameters_through(open_zimage: OpenProvider) -> None:
    open_zimage("http://127.0.0.1:9", params="strength").check(wanted(params={"strength": 0.5}))


def test_capabilities_follow_the_model(provider: Provider) -> None:
    turbo = provider.capabilities(MODEL)
    assert (turbo.mode, turbo.max_inputs, turbo.seed_range, turbo.max_prompt_chars) == (
        "task",
        0,
        (0, 2**31 - 1),
        1999,
    )
    assert (turbo.poll.first_s, turbo.poll.growth, turbo.poll.longest_s) == (2.0, 1.5, 10.0)
    assert provider.capabilities("Qwen/Qwen-Image-Edit").max_inputs > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"secrets": {}},
            "needs the secret `api_key`, one line of printable ASCII: write `api_key_env`",
        ),
        ({"options": {"parms": "x"}}, "Did you mean 'params'"),
        ({"options": {"seed": "true"}}, "not an option of the zimage provider"),
        ({"base_url": "ftp://x"}, "http"),
        ({"base_url": "https://u:p@x"}, "without user"),
    ],
)
def test_a_bad_credential_is_refused_with_a_sentence(arguments: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"base_url": None, "secrets": {"api_key": "k"}, "options": {}} | arguments
    with pytest.raises(ValueError, match=says):
        create_provider("zimage", **given)


# --- secrets


@pytest.mark.parametrize("key", [KEY, "unusual!form,of=key"])
async def test_the_key_is_in_no_repr_error_or_log(
    open_zimage: OpenProvider, serve: Serve, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"errors": {"message": f"Token {key} is wrong", "code": key}, "request_id": key}
    provider = open_zimage(await serve(Canned(body, 401).app), key)
    found = (await submit_failure(provider), await poll_failure(provider))
    shown = [repr(provider), str(provider), caplog.text]
    shown += [f"{error} {error!r} {error.to_dict()} {error.args!r}" for error in found]
    assert key not in " ".join(shown)
