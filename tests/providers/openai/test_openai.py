"""The OpenAI wire: every answer and refusal, sorted; nothing sent twice; the key never shown."""

from __future__ import annotations

import base64
import hashlib
import io
from decimal import Decimal
from typing import Any

import pytest
from PIL import Image

from providers.base import Generated, InputImage, Provider
from providers.errors import Charged, ErrorKind, ProviderError, Retry, Scope
from providers.openai.models import family_of
from providers.registry import create_provider
from providers.simulator import Simulator
from providers.simulator.drawing import Drawing, draw
from tests.providers.conformance import ECHOED, KEY, Canned
from tests.providers.conftest import OpenProvider, Serve, request_for

PNG = draw(Drawing("x", 1, 32, 32, plain=True))
UNVERIFIED = "Your organization must be verified to use the model `gpt-image-2`."
BLOCKED = "Your resource has been temporarily blocked because we detected behavior that may violate our content policy."
B64 = base64.b64encode(PNG).decode()
# Prompts that use the words of an account's troubles.


async def generate(
    provider: Provider, prompt: str = "a mug", timeout_s: float = 10, **fields: Any
) -> Generated:
    generated = await provider.submit(request_for(prompt, **fields), timeout_s=timeout_s)
    assert isinstance(generated, Generated)
    return generated


async def failure(
    provider: Provider, prompt: str = "a mug", timeout_s: float = 10, **fields: Any
) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.submit(request_for(prompt, **fields), timeout_s=timeout_s)
    return caught.value


# --- answers


@pytest.mark.parametrize(
    "item",
    [
        {"b64_json": B64},
        {"b64_json": f"data:image/png;base64,{B64}"},
        {"url": f"data:image/png;base64,{B64}"},
        {"b64_json": B64, "url": None},
    ],
)
async def test_a_picture_may_come_as_base64_or_as_a_data_url(
    open_provider: OpenProvider, serve: Serve, item: dict[str, Any]
) -> None:
    canned = Canned({"data": [item | {"revised_prompt": "a nicer mug"}], "usage": {"total_tokens": 7}})
    provider = open_provider(f"{await serve(canned.app)}/v1")
    generated = await generate(provider)
    assert await provider.fetch(generated.pictures[0]) == PNG
    assert generated.revised_prompt == "a nicer mug"
    assert generated.usage == {"total_tokens": 7}


async def test_the_words_of_a_provider_are_fit_to_be_shown_and_recorded(
    open_provider: OpenProvider, serve: Serve
) -> None:
    words = r"a \ud83d mug\u001b[2J\nof clay"
    canned = Canned(f'{{"data": [{{"b64_json": "{B64}", "revised_prompt": "{words}"}}]}}'.encode())
    provider = open_provider(f"{await serve(canned.app)}/v1")
    assert (await generate(provider)).revised_prompt == "a \\ud83d mug\\x1b[2J\nof clay"


async def test_a_picture_behind_an_address_is_fetched_without_the_key(
    open_provider: OpenProvider, simulator: Simulator
) -> None:
    provider = open_provider(simulator.base_url, response_format="url")
    picture = (await generate(provider)).pictures[0]
    assert picture.data is None
    assert Image.open(io.BytesIO(await provider.fetch(picture))).size == (64, 64)


# --- refusals, by wire example


def error_body(
    message: str = "no", type_: str | None = None, code: Any = None, **more: Any
) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code, **more}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, error_body("Rate limit reached", "rate_limit_error", "rate_limit_exceeded"), "rate_limited"),
        (429, error_body("Slow down", None, "slow_down"), "rate_limited"),
        (429, b"", "rate_limited"),
        (429, b"<html>Too Many Requests</html>", "rate_limited"),
        (429, error_body("quota", "insufficient_quota", "credit_balance_exhausted"), "billing_exhausted"),
        (429, error_body("quota", "insufficient_quota", None), "billing_exhausted"),
        (429, error_body("limit", None, "organization_spend_limit_exceeded"), "billing_exhausted"),
        (429, error_body("limit", None, "billing_hard_limit_reached"), "billing_exhausted"),
        (
            429,
            error_body("You exceeded your current quota, check your billing details."),
            "billing_exhausted",
        ),
        (429, error_body("Too many concurrent requests"), "concurrency_limited"),
        (429, error_body("no available image quota", "channel_error"), "quota_exhausted"),
        (402, error_body("pay"), "billing_exhausted"),
        (401, error_body("bad key", None, "invalid_api_key"), "auth"),
        (401, b"", "auth"),
        (403, error_body("country", None, "unsupported_country_region_territory"), "permission"),
        (403, error_body("flagged by our content filter"), "moderation_input"),
        (403, error_body(BLOCKED, None, "Forbidden"), "permission"),
        (422, error_body(BLOCKED, None, "content_policy_violation"), "moderation_input"),
        (
            429,
            error_body("Add a payment method: /account/billing", "requests", "rate_limit_exceeded"),
            "rate_limited",
        ),
        (429, error_body("See /account/billing", "rate_limit_error"), "rate_limited"),
        (429, error_body("Rate limit reached. Add credit at /account/billing."), "rate_limited"),
        (429, error_body("no concurrent quota", None, "slow_down"), "rate_limited"),
        (429, b"<html>Our billing page explains daily limits.</html>", "rate_limited"),
        (429, error_body("busy", None, "concurrency_limit_exceeded"), "concurrency_limited"),
        (404, error_body("no model", None, "model_not_found"), "unsupported"),
        (
            400,
            error_body("safety system", "image_generation_user_error", "moderation_blocked"),
            "moderation_input",
        ),
        (400, error_body("no", "invalid_request_error", "content_policy_violation"), "moderation_input"),
        (400, error_body("no", None, "contentFilter"), "moderation_input"),
        (400, error_body("The generated image was filtered", None, "content_filter"), "moderation_output"),
        (400, error_body("bad size", "invalid_request_error", "invalid_value"), "invalid_request"),
        (413, b"", "invalid_request"),
        (409, b"", "overloaded"),
        (500, error_body("oops", "server_error"), "provider_fault"),
        (502, b"<html><h1>502 Bad Gateway</h1></html>", "ambiguous_submit"),
        (503, error_body("busy", None, "server_is_overloaded"), "overloaded"),
        (504, b"<html><h1>504</h1></html>", "ambiguous_submit"),
        (520, b"error code: 520", "ambiguous_submit"),
        (524, b"error code: 524", "ambiguous_submit"),
        (529, b"", "overloaded"),
        (200, error_body("Rate limit exceeded", None, 429), "rate_limited"),
        (200, error_body("A code that is no HTTP status", None, 1301), "unknown"),
        (200, error_body("no", None, "moderation_blocked"), "moderation_input"),
        (200, {"error": "something odd"}, "unknown"),
        (200, {"data": []}, "no_image"),
        (200, {"data": None}, "no_image"),
        (200, {"data": [{"revised_prompt": "only words"}]}, "no_image"),
        (200, {"created": 1}, "no_image"),
        (200, {"data": "a string"}, "bad_response"),
        (200, b"<html>Please sign in.</html>", "bad_response"),
        (200, b"", "bad_response"),
        (200, b"[1, 2]", "bad_response"),
        (200, {"data": [{"b64_json": B64[:-3]}]}, "bad_response"),
        (200, {"data": [{"b64_json": "bm8gcGljdHVyZQ=="}]}, "bad_response"),
    ],
)
async def test_an_answer_is_sorted(
    open_provider: OpenProvider, serve: Serve, status: int, body: Any, kind: str
) -> None:
    canned = Canned(body, status, {"x-request-id": "req_7"})
    error = await failure(open_provider(f"{await serve(canned.app)}/v1"))
    assert error.kind == kind
    assert len(canned.seen) == 1
    assert error.message


async def test_a_throttle_carries_its_wait_code_and_request_id(
    open_provider: OpenProvider, serve: Serve
) -> None:
    body = error_body(
        "Rate limit reached. Please try again in 12s.", "rate_limit_error", "rate_limit_exceeded"
    )
    canned = Canned(body, 429, {"x-request-id": "req_7"})
    error = await failure(open_provider(f"{await serve(canned.app)}/v1"))
    assert (error.retry_after_s, error.provider_code, error.request_id) == (
        12.0,
        "rate_limit_exceeded",
        "req_7",
    )
    assert error.retry is Retry.AFTER_THROTTLE


@pytest.mark.parametrize("message", [BLOCKED, UNVERIFIED])
async def test_an_account_that_needs_a_person_harms_no_job(
    open_provider: OpenProvider, serve: Serve, message: str
) -> None:
    """Azure's words are those of moderation, but they concern the account: every prompt gets this refusal."""
    canned = Canned(error_body(message, None, "Forbidden"), 403)
    error = await failure(open_provider(f"{await serve(canned.app)}/v1"))
    assert (error.retry, error.scope) == (Retry.PAUSE_QUOTA, Scope.KEY)


@pytest.mark.parametrize("prompt", ECHOED)
@pytest.mark.parametrize("status", [200, 400, 403, 413, 422, 451, 500])
async def test_a_quoted_prompt_beside_a_type_stops_no_account(
    open_provider: OpenProvider, serve: Serve, prompt: str, status: int
) -> None:
    body = error_body(f"Refused: {prompt}", "invalid_request_error")
    error = await failure(open_provider(f"{await serve(Canned(body, status).app)}/v1"), prompt)
    assert error.retry not in (Retry.PAUSE_QUOTA, Retry.AFTER_THROTTLE)
    assert error.retry_after_s is None


async def test_a_spent_balance_that_has_a_code_is_spent_despite_any_header(
    open_provider: OpenProvider, serve: Serve
) -> None:
    canned = Canned(error_body("pay", None, "credit_balance_exhausted"), 402, {"retry-after": "4"})
    assert (await failure(open_provider(f"{await serve(canned.app)}/v1"))).kind is ErrorKind.BILLING_EXHAUSTED


async def test_a_402_that_only_speaks_of_waiting_is_a_spent_balance(
    open_provider: OpenProvider, serve: Serve
) -> None:
    canned = Canned(error_body("Insufficient credits. Try again in 5s."), 402)
    assert (await failure(open_provider(f"{await serve(canned.app)}/v1"))).kind is ErrorKind.BILLING_EXHAUSTED


async def test_a_throttle_inside_an_accepted_call_may_have_been_charged(
    open_provider: OpenProvider, serve: Serve
) -> None:
    canned = Canned(error_body("Rate limit exceeded", None, 429))
    error = await failure(open_provider(f"{await serve(canned.app)}/v1"))
    assert (error.kind, error.charged) == (ErrorKind.RATE_LIMITED, Charged.MAYBE)


@pytest.mark.parametrize(
    ("param", "field"),
    [("mask", "inputs"), ("image[]", "inputs"), ("output_format", "output.format"), ("model", None)],
)
async def test_a_refusal_names_the_jobs_field(
    open_provider: OpenProvider, serve: Serve, param: str, field: str | None
) -> None:
    canned = Canned({"error": {"message": "no", "code": "invalid_value", "param": param}}, 400)
    assert (await failure(open_provider(f"{await serve(canned.app)}/v1"))).field == field


async def test_a_refused_size_names_the_jobs_field(open_provider: OpenProvider, serve: Serve) -> None:
    canned = Canned(error_body("Invalid size", "invalid_request_error", "invalid_value", param="size"), 400)
    canned.body = canned.body.replace(b'"param":null,', b"")
    error = await failure(open_provider(f"{await serve(canned.app)}/v1"))
    assert error.field == "size"


# --- requests


async def test_gpt_image_models_get_no_response_format_and_no_seed(
    open_provider: OpenProvider, serve: Serve
) -> None:
    canned = Canned({"data": [{"b64_json": B64}]})
    provider = open_provider(f"{await serve(canned.app)}/v1", response_format="url")
    await generate(
        provider,
        model="gpt-image-1.5",
        size="16:9",
        seed=7,
        output_format="webp",
        quality=70,
        params={"quality": "low", "background": "opaque"},
    )
    assert canned.sent == {
        "model": "gpt-image-1.5",
        "prompt": "a mug",
        "n": 1,
        "size": "1536x1024",
        "output_format": "webp",
        "output_compression": 70,
        "quality": "low",
        "background": "opaque",
    }
    headers = canned.seen[0][0].headers
    assert headers["authorization"] == f"Bearer {KEY}"


async def test_compatible_gateways_get_seed_and_negative_prompt(
    open_provider: OpenProvider, serve: Serve
) -> None:
    canned = Canned({"data": [{"b64_json": B64}]})
    provider = open_provider(f"{await serve(canned.app)}/v1")
    generated = await generate(provider, seed=0, negative_prompt="text", output_format="png", quality=70)
    assert canned.sent["seed"] == 0
    assert canned.sent["negative_prompt"] == "text"
    assert "output_compression" not in canned.sent
    assert generated.pictures[0].seed == 0


async def test_inputs_become_a_multipart_edit_byte_for_byte(
    open_provider: OpenProvider, simulator: Simulator
) -> None:
    """Pictures hold every byte, also line ends and the dashes of a boundary, which forms treat specially."""
    hostile = PNG + b"\r\n--boundary\r\n\n\r--\r\n" + bytes(range(256))
    inputs = (
        InputImage(hostile, "image/png"),
        InputImage(draw(Drawing("y", 2, 48, 32, format="jpeg")), "image/jpeg", "image"),
        InputImage(PNG, "image/png", "mask"),
    )
    provider = open_provider(simulator.base_url)
    fields: dict[str, Any] = {"model": "gpt-image-2", "size": "1:1", "output_format": "webp", "quality": 70}
    generated = await generate(
        provider, "on marble", inputs=inputs, params={"input_fidelity": "high"}, **fields
    )
    assert Image.open(io.BytesIO(generated.pictures[0].data or b"")).size == (1024, 1024)
    (call,) = simulator.ledger.calls
    assert [(file.name, file.content_type, file.sha256) for file in call.files] == [
        (name, image.content_type, hashlib.sha256(image.data).hexdigest())
        for name, image in zip(("image[]", "image[]", "mask"), inputs, strict=True)
    ]
    assert call.fields == {
        "model": "gpt-image-2",
        "prompt": "on marble",
        "n": "1",
        "size": "1024x1024",
        "output_format": "webp",
        "output_compression": "70",
        "input_fidelity": "high",
    }


async def test_an_edit_names_its_files_as_a_list(open_provider: OpenProvider, serve: Serve) -> None:
    canned = Canned({"data": [{"b64_json": B64}]})
    provider = open_provider(f"{await serve(canned.app)}/v1")
    await generate(provider, inputs=(InputImage(PNG, "image/png"),))
    request, body = canned.seen[0]
    assert request.url.path == "/v1/images/edits"
    assert b'name="image[]"; filename="input-0.png"' in body


@pytest.mark.parametrize(
    ("model", "options", "sent"),
    [
        ("gpt-image-2", {"response_format": "url"}, None),
        ("gpt-image-2", {}, None),
        ("dall-e-3", {}, "b64_json"),
        ("dall-e-3", {"response_format": "url"}, "url"),
        ("flux-pro", {}, None),
        ("flux-pro", {"response_format": "b64_json"}, "b64_json"),
    ],
)
async def test_a_response_format_is_sent_to_models_that_know_it(
    open_provider: OpenProvider, serve: Serve, model: str, options: dict[str, str], sent: str | None
) -> None:
    canned = Canned({"data": [{"b64_json": B64}]})
    await generate(open_provider(f"{await serve(canned.app)}/v1", **options), model=model, size="1:1")
    assert canned.sent.get("response_format") == sent


async def test_any_compatible_base_url_is_taken_with_its_path(
    open_provider: OpenProvider, serve: Serve
) -> None:
    canned = Canned({"data": [{"b64_json": B64}]})
    await generate(open_provider(f"{await serve(canned.app)}/v1/accounts/7/openai/"))
    assert canned.seen[0][0].url.path == "/v1/accounts/7/openai/images/generations"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"response_format": "png"}, "b64_json"),
        ({"seed": "maybe"}, "true"),
        ({"project": "a\nb"}, "printable ASCII"),
        ({"wire": "chat"}, "not an option"),
    ],
)
def test_a_wrong_option_is_a_sentence(options: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create_provider("openai", base_url=None, secrets={"api_key": KEY}, options=options)


# --- costs


async def test_the_cost_is_that_of_the_tokens(open_provider: OpenProvider, simulator: Simulator) -> None:
    provider = open_provider(simulator.base_url)
    made = await generate(provider, model="gpt-image-2", size="1:1")
    assert (made.cost, made.currency) == (Decimal("0.00821"), "USD")
    inputs = (InputImage(PNG, "image/png"),) * 2
    edited = await generate(provider, model="gpt-image-2.5-flare", size="1:1", inputs=inputs)
    assert edited.cost == Decimal("0.013378")
    foreign = await generate(provider)
    assert (foreign.cost, foreign.currency) == (None, None)


# --- refusals free of charge


@pytest.mark.parametrize(
    ("field", "fields", "says"),
    [
        ("size", {"model": "gpt-image-1", "size": "512x512"}, "1024x1024, 1536x1024"),
        ("size", {"model": "gpt-image-2", "size": "1000x1000"}, "multiples of 16"),
        ("size", {"model": "gpt-image-2", "size": "2048x512"}, "between 1:3 and 3:1"),
        ("size", {"model": "gpt-image-2", "size": "3840x3840"}, "3840x2160"),
        ("size", {"size": "8x8"}, "16..4096"),
        ("size", {"size": "large"}, "1024x1024"),
        ("size", {"size": "0:9"}, "not a ratio"),
        ("prompt", {"model": "dall-e-2", "size": None, "prompt": "x" * 1001}, "at most 1000"),
        ("prompt", {"prompt": ""}, "empty"),
        (
            "negative_prompt",
            {"model": "gpt-image-2", "size": None, "negative_prompt": "x"},
            "no negative prompt",
        ),
        ("seed", {"seed": 2**32}, "0..4294967295"),
        ("output.quality", {"quality": 0}, "1..100"),
        ("params.qality", {"params": {"qality": "low"}}, "quality"),
        ("params.quality", {"model": "gpt-image-2", "size": None, "params": {"quality": "max"}}, "auto, low"),
        ("params.n", {"params": {"n": 4}}, "no parameter 'n'"),
        (
            "inputs",
            {"model": "dall-e-3", "size": None, "inputs": (InputImage(PNG, "image/png"),)},
            "takes none",
        ),
        ("inputs", {"inputs": (InputImage(PNG, "image/png", "mask"),)}, "mask"),
        (
            "inputs.1",
            {"inputs": (InputImage(PNG, "image/png"), InputImage(PNG, "image/webp", "mask"))},
            "PNG",
        ),
        (
            "inputs.1",
            {"inputs": (InputImage(PNG, "image/png"), InputImage(bytes(4 * 1024**2), "image/png", "mask"))},
            "4 MiB",
        ),
        ("inputs.0", {"inputs": (InputImage(bytes(50 * 1024**2 + 1), "image/png"),)}, "50.0 MiB"),
    ],
)
async def test_a_job_that_the_provider_would_refuse_is_not_sent(
    provider: Provider, simulator: Simulator, field: str, fields: dict[str, Any], says: str
) -> None:
    given = {"prompt": "a mug"} | fields
    error = await failure(provider, **given)
    assert (error.kind, error.field, error.charged) == (ErrorKind.INVALID_REQUEST, field, Charged.NO)
    assert says in error.message
    assert not simulator.ledger.calls


@pytest.mark.parametrize(
    ("model", "size", "wire"),
    [
        ("gpt-image-1", "16:9", "1536x1024"),
        ("gpt-image-1", "9:16", "1024x1536"),
        ("gpt-image-1", "1:1", "1024x1024"),
        ("gpt-image-1", None, None),
        ("dall-e-3", "16:9", "1792x1024"),
        ("gpt-image-2", "16:9", "1360x768"),
        ("gpt-image-2", "3840x2160", "3840x2160"),
        ("openai/gpt-image-2.5-flare", "1:1", "1024x1024"),
        ("flux-pro", "768x768", "768x768"),
    ],
)
def test_sizes_are_mapped_to_those_of_the_model(model: str, size: str | None, wire: str | None) -> None:
    assert family_of(model).wire_size(size) == wire


def test_capabilities_show_whether_a_seed_is_sent(open_provider: OpenProvider) -> None:
    assert open_provider("http://127.0.0.1:9/v1").capabilities("gpt-image-2").seed_range is None
    assert open_provider("http://127.0.0.1:9/v1").capabilities("flux").seed_range == (0, 2**32 - 1)
    assert (
        open_provider("http://127.0.0.1:9/v1", seed="true").capabilities("gpt-image-2").seed_range is not None
    )
    assert open_provider("http://127.0.0.1:9/v1", seed="false").capabilities("flux").seed_range is None
