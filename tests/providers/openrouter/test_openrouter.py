"""The openrouter provider: both wires, errors inside an answer of 200, costs, and a key that is never shown."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from providers.base import ChecksCredential, Generated, InputImage, Provider
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.openrouter.models import CHAT_RATIOS, chat_config, images_size, modalities
from providers.registry import create_provider
from providers.simulator import Simulator
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from tests.providers.conformance import ECHOED, KEY, Canned
from tests.providers.conftest import OpenProvider, Serve, request_for

MODEL = "google/gemini-3.1-flash-image"
PNG = draw(Drawing("x", 1, 32, 32, plain=True))
JPEG = draw(Drawing("y", 2, 48, 32, format="jpeg"))
DATA_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


@pytest.fixture(params=["chat", "images"])
def wired(request: pytest.FixtureRequest, open_openrouter: OpenProvider, simulator: Simulator) -> Provider:
    return open_openrouter(simulator.openrouter_url, wire=request.param)


async def generate(provider: Provider, prompt: str = "a mug", **fields: Any) -> Generated:
    request = request_for(prompt, **{"model": MODEL, "size": "1:1"} | fields)
    generated = await provider.submit(request, timeout_s=10)
    assert isinstance(generated, Generated)
    return generated


async def failure(
    provider: Provider, prompt: str = "a mug", timeout_s: float = 10, **fields: Any
) -> ProviderError:
    request = request_for(prompt, **{"model": MODEL, "size": "1:1"} | fields)
    with pytest.raises(ProviderError) as caught:
        await provider.submit(request, timeout_s=timeout_s)
    return caught.value


def chat(images: list[Any] | None = None, **choice: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.pop("content", "")}
    if images is not None:
        message["images"] = images
    return {
        "id": "gen-7",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message} | choice],
        "usage": {"prompt_tokens": 6, "completion_tokens": 1290, "cost": 0.0387},
    }


def refused(code: int, message: str = "no", **metadata: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "metadata": metadata}}


# --- answers


async def test_both_wires_make_a_picture_and_report_its_cost(wired: Provider, simulator: Simulator) -> None:
    generated = await generate(wired, seed=7)
    picture = Image.open(io.BytesIO(await wired.fetch(generated.pictures[0])))
    assert picture.size == (1024, 1024)
    assert generated.pictures[0].seed == 7
    assert (generated.cost, generated.currency) == (Decimal("0.0387"), "USD")
    assert simulator.ledger.costs() == {"USD": Decimal("0.0387")}
    assert len(simulator.ledger.calls) == 1


async def test_a_slide_is_16_to_9_on_both_wires(wired: Provider, simulator: Simulator) -> None:
    generated = await generate(wired, "slide 1 of 3", size="16:9")
    assert Image.open(io.BytesIO(generated.pictures[0].data or b"")).size == (1344, 768)


async def test_a_chat_requests_pictures_of_a_ratio(open_openrouter: OpenProvider, serve: Serve) -> None:
    canned = Canned(chat([{"type": "image_url", "image_url": {"url": DATA_URL}}]))
    provider = open_openrouter(f"{await serve(canned.app)}/api/v1")
    generated = await generate(provider, size="16:9", seed=0, params={"image_size": "2K"})
    assert canned.seen[0][0].url.path == "/api/v1/chat/completions"
    assert canned.sent == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "a mug"}],
        "modalities": ["image", "text"],
        "image_config": {"aspect_ratio": "16:9", "image_size": "2K"},
        "seed": 0,
        "stream": False,
    }
    assert generated.provider_request_id == "gen-7"
    assert await provider.fetch(generated.pictures[0]) == PNG


async def test_the_images_endpoint_gets_a_ratio_or_pixels(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    canned = Canned({"created": 1, "data": [{"b64_json": DATA_URL.partition(",")[2]}]})
    provider = open_openrouter(f"{await serve(canned.app)}/api/v1", wire="images")
    generated = await generate(provider, size="16:9", params={"resolution": "2K", "quality": "low"})
    assert canned.seen[0][0].url.path == "/api/v1/images"
    assert canned.sent == {
        "model": MODEL,
        "prompt": "a mug",
        "n": 1,
        "aspect_ratio": "16:9",
        "resolution": "2K",
        "quality": "low",
    }
    assert (generated.cost, generated.currency) == (None, None)
    await generate(provider, size="1920x1080")
    assert canned.sent["size"] == "1920x1080"
    assert "aspect_ratio" not in canned.sent


@pytest.mark.parametrize(
    "answer",
    [
        chat([{"type": "image_url", "image_url": {"url": DATA_URL}}]),
        chat([{"image_url": DATA_URL}]),
        chat(
            None,
            content=[{"type": "text", "text": "Here"}, {"type": "image_url", "image_url": {"url": DATA_URL}}],
        ),
        chat([{"image_url": {"url": DATA_URL}}], finish_reason="length"),
        chat(content=f"Here it is:\n\n![a mug]({DATA_URL})\n\nEnjoy!"),
        chat([], content=f'![]( <{DATA_URL}> "a mug" )'),
        chat(content=[{"type": "text", "text": f"![image]({DATA_URL})"}]),
    ],
)
async def test_a_chats_picture_is_found_in_every_known_place(
    open_openrouter: OpenProvider, serve: Serve, answer: dict[str, Any]
) -> None:
    provider = open_openrouter(f"{await serve(Canned(answer).app)}/api/v1")
    assert (await generate(provider)).pictures[0].data == PNG


SVG = "![a logo](data:image/svg+xml;utf8,%3Csvg%2F%3E)"


@pytest.mark.parametrize(
    "answer",
    [
        chat(content=[{"type": "text", "text": SVG}, {"type": "image_url", "image_url": {"url": DATA_URL}}]),
        chat(content=f"{SVG} and ![a mug]({DATA_URL})"),
        chat([{"image_url": {"url": "data:image/png;base64,iVBO"}}, {"image_url": {"url": DATA_URL}}]),
    ],
    ids=["in another part", "in the same text", "in the list"],
)
async def test_a_broken_picture_beside_a_good_one_costs_no_second_call(
    open_openrouter: OpenProvider, serve: Serve, answer: dict[str, Any]
) -> None:
    provider = open_openrouter(f"{await serve(Canned(answer).app)}/api/v1")
    (picture,) = (await generate(provider)).pictures
    assert picture.data == PNG


async def test_the_words_beside_a_picture_are_not_searched_for_another(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    words = {"type": "text", "text": "As in ![](https://shop.example/old.png)"}
    content = [words, {"type": "image_url", "image_url": {"url": DATA_URL}}]
    provider = open_openrouter(f"{await serve(Canned(chat(content=content)).app)}/api/v1")
    (picture,) = (await generate(provider)).pictures
    assert picture.data == PNG


async def test_the_address_of_a_picture_in_markdown_is_found(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    words = "See [the site](https://shop.example/). ![a mug](https://cdn.example/a.png?x=1 'a mug')"
    provider = open_openrouter(f"{await serve(Canned(chat(content=words)).app)}/api/v1")
    (picture,) = (await generate(provider)).pictures
    assert picture.url == "https://cdn.example/a.png?x=1"


async def test_inputs_travel_inside_the_request_byte_for_byte(wired: Provider, simulator: Simulator) -> None:
    inputs = (InputImage(PNG, "image/png"), InputImage(JPEG, "image/jpeg", "image"))
    await generate(wired, "the mug of the first on the table of the second", inputs=inputs)
    (call,) = simulator.ledger.calls
    assert [(file.content_type, file.sha256) for file in call.files] == [
        ("image/png", hashlib.sha256(PNG).hexdigest()),
        ("image/jpeg", hashlib.sha256(JPEG).hexdigest()),
    ]
    assert call.prompt == "the mug of the first on the table of the second"


async def test_the_application_is_named_only_where_it_is_configured(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    canned = Canned(chat([{"image_url": {"url": DATA_URL}}]))
    url = f"{await serve(canned.app)}/api/v1"
    await generate(open_openrouter(url))
    await generate(open_openrouter(url, referer="https://shop.example", title="Shop"))
    first, second = (request.headers for request, _ in canned.seen)
    assert "http-referer" not in first
    assert "x-title" not in first
    assert (second["http-referer"], second["x-title"]) == ("https://shop.example", "Shop")
    assert first["authorization"] == second["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("cost", "reported"),
    [
        (0.0387, Decimal("0.0387")),
        (0.1 + 0.2, Decimal("0.30000000000000004")),
        ("0.04", Decimal("0.04")),
        (0, Decimal(0)),
        (-1, None),
        (True, None),
        ("much", None),
        ([1], None),
        (None, None),
    ],
)
async def test_a_cost_is_exact_or_there_is_none(
    open_openrouter: OpenProvider, serve: Serve, cost: Any, reported: Decimal | None
) -> None:
    answer = chat([{"image_url": {"url": DATA_URL}}]) | {"usage": {"cost": cost}}
    provider = open_openrouter(f"{await serve(Canned(answer).app)}/api/v1")
    generated = await generate(provider)
    assert generated.cost == reported
    assert generated.currency == (None if reported is None else "USD")


# --- refusals, by wire example


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, refused(400, error_type="invalid_request"), "invalid_request"),
        (400, refused(400, error_type="invalid_prompt"), "invalid_request"),
        (400, refused(400, error_type="image_download_failed"), "input_fetch"),
        (401, refused(401, "User not found."), "auth"),
        (402, refused(402, limit_source="openrouter_credits"), "billing_exhausted"),
        (402, refused(402, limit_source="openrouter_key_limit"), "billing_exhausted"),
        (402, refused(402, limit_source="openrouter_in_flight_budget"), "budget_in_flight"),
        (402, refused(402), "billing_exhausted"),
        (402, refused(402, error_type="payment_required"), "billing_exhausted"),
        (403, refused(403, limit_source="openrouter_workspace_budget"), "billing_exhausted"),
        (403, refused(403, reasons=["violence"], flagged_input="a..."), "moderation_input"),
        (403, refused(403, error_type="content_policy_violation"), "moderation_input"),
        (403, refused(403), "permission"),
        (404, refused(404, "No endpoints found"), "unsupported"),
        (408, refused(408), "ambiguous_submit"),
        (413, refused(413, error_type="payload_too_large"), "invalid_request"),
        (422, refused(422, error_type="unprocessable"), "invalid_request"),
        (429, refused(429, error_type="rate_limit_exceeded"), "rate_limited"),
        (429, refused(429, "Too many concurrent requests"), "concurrency_limited"),
        (429, refused(429, "See your billing page", error_type="rate_limit_exceeded"), "rate_limited"),
        (
            429,
            refused(429, "no", raw="insufficient credits, billing, daily limit", provider_name="x"),
            "rate_limited",
        ),
        (402, refused(402, "Insufficient credits; retry in 5 s"), "billing_exhausted"),
        (429, b"", "rate_limited"),
        (500, refused(500, error_type="server"), "provider_fault"),
        (502, refused(502, "Provider returned error"), "provider_fault"),
        (502, b"<html>502 Bad Gateway</html>", "ambiguous_submit"),
        (503, refused(503), "overloaded"),
        (504, refused(504, error_type="timeout"), "ambiguous_submit"),
        (524, b"error code: 524", "ambiguous_submit"),
        (529, refused(529, error_type="provider_overloaded"), "overloaded"),
        # The same, inside an answer of 200.
        (200, refused(429, "Provider returned error"), "rate_limited"),
        (200, refused(502, "Provider returned error"), "provider_fault"),
        (200, refused(402, limit_source="openrouter_credits"), "billing_exhausted"),
        (200, refused(403, reasons=["sexual"]), "moderation_input"),
        (200, refused(400, error_type="refusal"), "moderation_output"),
        (200, {"error": "something odd"}, "unknown"),
        (200, chat(error={"code": 429, "message": "slow down"}, finish_reason="error"), "rate_limited"),
        (200, chat(error={"code": 502, "message": "boom"}), "provider_fault"),
        (200, chat(finish_reason="error"), "provider_fault"),
        (200, chat(finish_reason="content_filter"), "moderation_output"),
        (200, chat(native_finish_reason="IMAGE_SAFETY"), "moderation_output"),
        (200, chat(native_finish_reason="PROHIBITED_CONTENT"), "moderation_output"),
        (200, chat(native_finish_reason="NO_IMAGE"), "no_image"),
        (200, chat([], native_finish_reason="IMAGE_OTHER"), "no_image"),
        (200, chat(content="I can only describe it."), "no_image"),
        (200, {"choices": []}, "no_image"),
        (200, {"choices": None}, "no_image"),
        (200, {"id": "gen-1"}, "no_image"),
        (200, chat("a string"), "bad_response"),  # type: ignore[arg-type]  # what the wire may hold
        (200, chat([{"image_url": {"url": "data:image/png;base64,bm8gcGljdHVyZQ=="}}]), "bad_response"),
        (200, chat([{"image_url": {"url": DATA_URL[:-3]}}]), "bad_response"),
        (200, b"<html>Please sign in.</html>", "bad_response"),
        (200, b"", "bad_response"),
    ],
)
async def test_an_answer_is_sorted(
    open_openrouter: OpenProvider, serve: Serve, status: int, body: Any, kind: str
) -> None:
    canned = Canned(body, status)
    error = await failure(open_openrouter(f"{await serve(canned.app)}/api/v1"))
    assert error.kind == kind
    assert error.http_status == status
    assert len(canned.seen) == 1


async def test_a_402_with_a_wait_is_waited_for_unless_it_names_a_spent_limit(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    held = Canned(refused(402), 402, {"retry-after": "4"})
    error = await failure(open_openrouter(f"{await serve(held.app)}/api/v1"))
    assert (error.kind, error.retry, error.retry_after_s) == (
        ErrorKind.BUDGET_IN_FLIGHT,
        Retry.AFTER_THROTTLE,
        4.0,
    )
    spent = Canned(refused(402, limit_source="openrouter_key_limit"), 402, {"retry-after": "4"})
    error = await failure(open_openrouter(f"{await serve(spent.app)}/api/v1"))
    assert (error.kind, error.retry) == (ErrorKind.BILLING_EXHAUSTED, Retry.PAUSE_QUOTA)


@pytest.mark.parametrize("prompt", ECHOED)
@pytest.mark.parametrize("status", [200, 400, 403, 422, 500])
async def test_a_prompt_that_the_provider_behind_quotes_stops_no_account(
    open_openrouter: OpenProvider, serve: Serve, prompt: str, status: int
) -> None:
    canned = Canned(refused(status, "no", raw=prompt), status)
    error = await failure(open_openrouter(f"{await serve(canned.app)}/api/v1"), prompt)
    assert error.retry not in (Retry.PAUSE_QUOTA, Retry.AFTER_THROTTLE)
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    "answer",
    [
        refused(429, "Provider returned error"),
        refused(503, error_type="provider_overloaded"),
        chat(error={"code": 429, "message": "slow down"}, finish_reason="error") | {"usage": {}},
        refused(403, reasons=["sexual"]),
    ],
)
async def test_an_error_inside_an_accepted_call_may_have_been_charged(
    open_openrouter: OpenProvider, serve: Serve, answer: dict[str, Any]
) -> None:
    error = await failure(open_openrouter(f"{await serve(Canned(answer).app)}/api/v1"))
    assert error.charged is Charged.MAYBE


async def test_the_limits_of_free_models_are_read_from_the_body(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    """The limits come as metadata.headers, with an instant in milliseconds; over 15 minutes is an allowance."""
    for wait_s, kind in ((30, ErrorKind.RATE_LIMITED), (7200, ErrorKind.QUOTA_EXHAUSTED)):
        reset_ms = round((time.time() + wait_s) * 1000)
        reported = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset_ms)}
        body = refused(429, "Rate limit exceeded: free-models", headers=reported)
        error = await failure(open_openrouter(f"{await serve(Canned(body, 429).app)}/api/v1"))
        assert error.kind is kind
        assert error.retry_after_s == pytest.approx(wait_s, abs=5)


async def test_the_same_header_in_the_body_and_outside_is_one_header(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    body = refused(429, "Rate limit exceeded", headers={"Retry-After": "7"})
    canned = Canned(body, 429, {"retry-after": "9"})
    error = await failure(open_openrouter(f"{await serve(canned.app)}/api/v1"))
    assert error.retry_after_s == 9.0


async def test_a_failure_inside_a_200_keeps_the_id_by_which_it_can_be_looked_up(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    for answer in (
        refused(502, "boom") | {"id": "gen-7"},
        chat(),
        chat([{"image_url": {"url": DATA_URL[:-3]}}]),
    ):
        error = await failure(open_openrouter(f"{await serve(Canned(answer).app)}/api/v1"))
        assert error.request_id == "gen-7"


async def test_the_words_of_the_provider_behind_are_shown(
    open_openrouter: OpenProvider, serve: Serve
) -> None:
    raw = '{"error":{"message":"flux-3 is warming up"}}'
    body = refused(502, "Provider returned error", provider_name="BFL", raw=raw, provider_code="warming")
    error = await failure(open_openrouter(f"{await serve(Canned(body, 502).app)}/api/v1"))
    assert error.message == "Provider returned error (BFL: flux-3 is warming up)"
    assert error.provider_code == "warming"


async def test_an_error_names_the_jobs_field(open_openrouter: OpenProvider, serve: Serve) -> None:
    for type_, field in (("invalid_prompt", "prompt"), ("image_too_large", "inputs")):
        canned = Canned(refused(400, error_type=type_), 400)
        assert (await failure(open_openrouter(f"{await serve(canned.app)}/api/v1"))).field == field


async def test_words_instead_of_a_picture_are_billed_and_quoted(
    open_openrouter: OpenProvider, simulator: Simulator
) -> None:
    provider = open_openrouter(simulator.openrouter_url)
    simulator.faults.add(Fault(FaultKind.EMPTY))
    error = await failure(provider)
    assert (error.kind, error.charged) == (ErrorKind.NO_IMAGE, Charged.YES)
    assert "(NO_IMAGE)" in error.message
    assert '"A fine idea!"' in error.message
    assert error.cost == simulator.ledger.costs()["USD"] == Decimal("0.00036")
    assert error.to_dict()["cost"] == {"amount": "0.00036", "currency": "USD"}


async def test_a_free_answer_is_not_charged(open_openrouter: OpenProvider, serve: Serve) -> None:
    answer = chat(native_finish_reason="NO_IMAGE") | {"usage": {"cost": 0}}
    error = await failure(open_openrouter(f"{await serve(Canned(answer).app)}/api/v1"))
    assert (error.charged, error.cost) == (Charged.NO, Decimal(0))


# --- faults


async def test_a_picture_that_moderation_keeps_back_is_not_bought_again(
    open_openrouter: OpenProvider, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.WITHHELD))
    error = await failure(open_openrouter(simulator.openrouter_url))
    assert (error.kind, error.retry, error.charged) == (
        ErrorKind.MODERATION_OUTPUT,
        Retry.NEVER,
        Charged.YES,
    )
    assert error.provider_code == "IMAGE_SAFETY"


async def test_money_that_running_calls_hold_is_waited_for(
    open_openrouter: OpenProvider, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.BILLING, retry_after_s=2))
    error = await failure(open_openrouter(simulator.openrouter_url))
    assert (error.kind, error.retry_after_s) == (ErrorKind.BUDGET_IN_FLIGHT, 2.0)


async def test_a_flagged_prompt_is_not_quoted(open_openrouter: OpenProvider, simulator: Simulator) -> None:
    error = await failure(open_openrouter(simulator.openrouter_url), "a forbidden thing")
    assert error.kind is ErrorKind.MODERATION_INPUT
    assert "violence" in error.message
    assert "forbidden" not in error.message


# --- refusals free of charge


@pytest.mark.parametrize(
    ("field", "fields", "says"),
    [
        ("prompt", {"prompt": ""}, "empty"),
        ("prompt", {"prompt": "x" * 32_001}, "at most 32000"),
        ("negative_prompt", {"negative_prompt": "text"}, "no negative prompt"),
        ("size", {"size": "31:8"}, "16:9"),
        ("size", {"size": "0:9"}, "not a ratio"),
        ("size", {"size": "large"}, "1024x1024"),
        ("size", {"size": "0x64"}, "1024x1024"),
        ("seed", {"seed": 2**31}, "0..2147483647"),
        ("params.steps", {"params": {"steps": 4}}, "user"),
        ("output.format", {"output_format": "tiff"}, "png, jpeg, webp"),
        ("inputs", {"inputs": (InputImage(PNG, "image/png"),) * 17}, "at most 16"),
        (
            "inputs",
            {"inputs": (InputImage(PNG, "image/png"), InputImage(PNG, "image/png", "mask"))},
            "no mask",
        ),
        ("inputs.0", {"inputs": (InputImage(bytes(20 * 1024**2 + 1), "image/png"),)}, "20.0 MiB"),
    ],
)
async def test_a_job_that_no_model_takes_is_refused_before_it_is_sent(
    wired: Provider, simulator: Simulator, field: str, fields: dict[str, Any], says: str
) -> None:
    error = await failure(wired, **{"prompt": "a mug"} | fields)
    assert (error.kind, error.field, error.charged) == (ErrorKind.INVALID_REQUEST, field, Charged.NO)
    assert says in error.message
    assert not simulator.ledger.calls


@pytest.mark.parametrize(
    ("wire", "field", "fields", "says"),
    [
        ("chat", "size", {"size": "2:1"}, "1:1, 2:3"),
        ("chat", "size", {"size": "2000x1000"}, "1:1, 2:3"),
        ("chat", "size", {"size": "8192x8192"}, "4096x4096"),
        ("chat", "params.image_size", {"params": {"image_size": "3K"}}, "1K, 2K, 4K"),
        ("chat", "params.image_size", {"size": "64x64", "params": {"image_size": "1K"}}, "in pixels already"),
        ("images", "size", {"size": "16x16"}, "64..8192"),
        ("images", "params.resolution", {"params": {"resolution": "9K"}}, "1.5K"),
        ("images", "params.image_size", {"params": {"image_size": "1K"}}, "resolution"),
    ],
)
async def test_a_refusal_of_one_wire_names_the_accepted_values(
    open_openrouter: OpenProvider,
    simulator: Simulator,
    wire: str,
    field: str,
    fields: dict[str, Any],
    says: str,
) -> None:
    error = await failure(open_openrouter(simulator.openrouter_url, wire=wire), **fields)
    assert (error.kind, error.field) == (ErrorKind.INVALID_REQUEST, field)
    assert says in error.message
    assert not simulator.ledger.calls


@pytest.mark.parametrize(
    ("size", "config"),
    [
        (None, {}),
        ("16:9", {"aspect_ratio": "16:9"}),
        ("32:18", {"aspect_ratio": "16:9"}),
        ("64x64", {"aspect_ratio": "1:1"}),
        ("1344x768", {"aspect_ratio": "16:9"}),
        ("1280x720", {"aspect_ratio": "16:9"}),
        ("1920x1080", {"aspect_ratio": "16:9", "image_size": "2K"}),
        ("4096x4096", {"aspect_ratio": "1:1", "image_size": "4K"}),
    ],
)
def test_a_size_becomes_a_ratio_and_the_smallest_resolution_that_holds_it(
    size: str | None, config: dict[str, str]
) -> None:
    assert chat_config(size) == config


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_pixels_get_a_picture_of_their_ratio_that_is_as_large(width: int, height: int) -> None:
    try:
        config = chat_config(f"{width}x{height}")
    except ValueError:
        return
    times = int(config.get("image_size", "1K")[0])
    made = tuple(side * times for side in CHAT_RATIOS[config["aspect_ratio"]])
    assert made[0] >= width * 0.97 - 1
    assert made[1] >= height * 0.97 - 1
    assert made[0] / made[1] == pytest.approx(width / height, rel=0.06)


def test_ratios_with_a_fraction_can_be_written_in_whole_numbers() -> None:
    assert images_size("47:20") == {"aspect_ratio": "2.35:1"}
    assert images_size("18:39") == {"aspect_ratio": "9:19.5"}


def test_no_text_is_requested_from_models_that_cannot_write() -> None:
    assert modalities("black-forest-labs/flux.2-pro") == ["image"]
    assert modalities("google/gemini-3.1-flash-image") == ["image", "text"]


async def test_the_modalities_can_be_configured(open_openrouter: OpenProvider, serve: Serve) -> None:
    canned = Canned(chat([{"image_url": {"url": DATA_URL}}]))
    await generate(open_openrouter(f"{await serve(canned.app)}/api/v1", modalities="image"))
    assert canned.sent["modalities"] == ["image"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"wire": "soap"}, "chat, images"),
        ({"titel": "x"}, "Did you mean 'title'"),
        ({"title": "Café"}, "printable ASCII"),
        ({"referer": "a\r\nb: c"}, "printable ASCII"),
        ({"modalities": "video"}, "image,text"),
    ],
)
def test_a_wrong_option_is_a_sentence(options: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create_provider("openrouter", base_url=None, secrets={"api_key": KEY}, options=options)


def test_a_missing_key_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="needs the secret `api_key`"):
        create_provider("openrouter", base_url=None, secrets={}, options={})


def test_capabilities_name_the_money_of_the_costs(open_openrouter: OpenProvider) -> None:
    capabilities = open_openrouter("https://openrouter.ai/api/v1").capabilities(MODEL)
    assert (capabilities.mode, capabilities.currency, capabilities.seed_range) == (
        "sync",
        "USD",
        (0, 2**31 - 1),
    )


# --- the key, tried for free


@pytest.mark.parametrize(
    ("data", "good", "says"),
    [
        ({"limit_remaining": None}, True, "no limit of its own"),
        ({"limit_remaining": 12.5}, True, "12.5 USD"),
        ({"limit_remaining": 0}, False, "used up"),
        ({"limit_remaining": -0.2}, False, "used up"),
        (None, None, "base_url"),
    ],
)
async def test_the_rest_of_a_keys_limit_is_shown(
    open_openrouter: OpenProvider, serve: Serve, data: Any, good: bool | None, says: str
) -> None:
    canned = Canned({"data": data})
    provider = open_openrouter(f"{await serve(canned.app)}/api/v1")
    assert isinstance(provider, ChecksCredential)
    found = await provider.check_credential(timeout_s=10)
    assert found.good is good
    assert says in found.says


@pytest.mark.parametrize(
    ("status", "good"), [(401, False), (403, None), (402, False), (404, None), (429, None), (500, None)]
)
async def test_a_refused_key_is_distinct_from_a_busy_server(
    open_openrouter: OpenProvider, serve: Serve, status: int, good: bool | None
) -> None:
    canned = Canned(refused(status, f"not with {KEY}"), status)
    provider = open_openrouter(f"{await serve(canned.app)}/api/v1")
    assert isinstance(provider, ChecksCredential)
    found = await provider.check_credential(timeout_s=10)
    assert found.good is good
    assert KEY not in found.says
    assert len(canned.seen) == 1


# --- secrets


async def test_the_key_is_in_no_repr_error_or_log(
    open_openrouter: OpenProvider, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for key in (KEY, "unusual!form,of=key"):
        body = refused(401, f"The key {key} is wrong", provider_code=key, raw=f"upstream saw {key}")
        url = f"{await serve(Canned(body, 401, {'x-request-id': key}).app)}/api/v1"
        provider = create_provider("openrouter", base_url=url, secrets={"api_key": key}, options={})
        error = await failure(provider)
        await provider.aclose()
        for text in (
            repr(provider),
            repr(error),
            str(error),
            str(error.to_dict()),
            repr(error.args),
            caplog.text,
        ):
            assert key not in text
