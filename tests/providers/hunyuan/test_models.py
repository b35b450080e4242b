"""Refusals before money is spent, and the requests on each wire for accepted jobs."""

from __future__ import annotations

import base64
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import InputImage, Provider, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.hunyuan.models import MAX_AREA, SIDES, Rules
from providers.hunyuan.models import wanted as checked
from providers.registry import create_provider
from tests.providers.conformance import Canned
from tests.providers.conftest import Serve
from tests.providers.hunyuan.rig import MODELS, WIRES, Wires, wanted

RULES = Rules(params=frozenset({"resolution", "revise"}), max_input_bytes=100)
PNG = InputImage(b"\x89PNG", "image/png")

# Each wire's answer to an accepted call.
ACCEPTED: dict[str, dict[str, Any]] = {
    "tc3": {"Response": {"JobId": "7", "RequestId": "rid-1"}},
    "tokenhub_async": {"id": "7", "status": "queued", "request_id": "rid-1"},
    "tokenhub_sync": {"id": "7", "created": 1, "data": [{"url": "https://pictures.example/x.png"}]},
}


@pytest.fixture
def wires(stack: AsyncExitStack) -> Wires:
    return Wires(stack)


def refusal(provider: Provider, wire: str, **fields: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        provider.check(wanted(wire, **fields))
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    return caught.value


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": "x" * 8193}, "prompt", "8193 characters"),
        ({"negative_prompt": "blur"}, "negative_prompt", "say it in the prompt"),
        ({"size": "2048x2048"}, "size", "at most 1048576 pixels"),
        ({"size": "256x256"}, "size", "sides of 512 to 2048"),
        ({"size": "21:4"}, "size", "from 1:4 to 4:1"),
        ({"size": "big"}, "size", "is not a size"),
        ({"size": "1024x0"}, "size", "is not a size"),
        ({"size": "4096:4096"}, "size", "sides of 512 to 2048"),
        ({"params": {"resolution": 1024}}, "params.resolution", "is not a size"),
        ({"size": "512x512", "params": {"resolution": "1024:1024"}}, "params.resolution", "keep one"),
        ({"seed": 0}, "seed", "outside 1..4294967295"),
        ({"seed": 2**32}, "seed", "outside 1..4294967295"),
        ({"seed": 5, "params": {"revise": True}}, "params.revise", "ignores the seed"),
        ({"params": {"revise": "yes"}}, "params.revise", "true and false"),
        ({"params": {"style": "anime"}}, "params.style", "it accepts"),
        ({"params": {"resolutoin": "512:512"}}, "params.resolutoin", "Did you mean 'resolution'"),
        ({"inputs": (PNG,) * 4}, "inputs", "at most 3"),
        ({"inputs": (InputImage(b"", "", "mask"),)}, "inputs", "no mask"),
        ({"inputs": (PNG, InputImage(b"GIF8", "image/gif"))}, "inputs.1", "image/gif is not accepted"),
        ({"inputs": (InputImage(b"x" * 8_000_000, "image/png"),)}, "inputs.0", "7.6 MiB"),
    ],
)
async def test_a_job_that_the_provider_would_refuse_is_refused_for_free(
    wires: Wires, wire: str, fields: dict[str, Any], field: str, says: str
) -> None:
    error = refusal(wires.open(wire, "http://127.0.0.1:9"), wire, **fields)
    assert error.field == field
    assert says in error.message


async def test_a_footnote_belongs_to_one_wire_and_is_short(wires: Wires) -> None:
    provider = wires.open("tokenhub_sync", "http://127.0.0.1:9")
    provider.check(wanted("tokenhub_sync", params={"footnote": "made by us"}))
    assert "1 to 16" in refusal(provider, "tokenhub_sync", params={"footnote": "x" * 17}).message
    other = wires.open("tc3", "http://127.0.0.1:9")
    assert (
        "it accepts logo_add, resolution, revise" in refusal(other, "tc3", params={"footnote": "x"}).message
    )


@given(st.integers(1, 99), st.integers(1, 99))
def test_a_ratio_becomes_the_largest_size_of_about_that_ratio_or_is_refused(width: int, height: int) -> None:
    request = wanted("tc3", size=f"{width}:{height}")
    ratio = width / height
    if not 0.25 <= ratio <= 4:
        with pytest.raises(ProviderError, match="from 1:4 to 4:1"):
            checked(request, RULES, {})
        return
    size = checked(request, RULES, {}).size
    assert size is not None
    assert SIDES[0] <= min(size)
    assert max(size) <= SIDES[1]
    assert 0.93 * MAX_AREA <= size[0] * size[1] <= MAX_AREA
    assert size[0] / size[1] == pytest.approx(ratio, rel=16 / 512)


@pytest.mark.parametrize(
    ("size", "pixels"),
    [("1:1", (1024, 1024)), ("16:9", (1360, 768)), ("1:4", (512, 2048)), ("4:1", (2048, 512))],
)
def test_some_ratios_by_name(size: str, pixels: tuple[int, int]) -> None:
    assert checked(wanted("tc3", size=size), RULES, {}).size == pixels


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from("x:"))
def test_pixels_are_taken_as_they_are_or_refused(width: int, height: int, between: str) -> None:
    accepted = (
        SIDES[0] <= min(width, height) and max(width, height) <= SIDES[1] and width * height <= MAX_AREA
    )
    request = wanted("tc3", size=f"{width}{between}{height}")
    if accepted:
        assert checked(request, RULES, {}).size == (width, height)
    elif between == "x" or max(width, height) > 99:
        with pytest.raises(ProviderError):
            checked(request, RULES, {})


# --- over the wire


FULL: dict[str, Any] = {"size": "768x1024", "seed": 42, "inputs": (PNG,)}
ENCODED = base64.b64encode(PNG.data).decode()


@pytest.mark.parametrize(
    ("wire", "path", "fields"),
    [
        (
            "tc3",
            "/",
            {
                "Prompt": "雨中",
                "Images": [ENCODED],
                "Resolution": "768:1024",
                "Seed": 42,
                "Revise": 0,
                "LogoAdd": 0,
            },
        ),
        (
            "tokenhub_async",
            "/v1/api/image/submit",
            {
                "model": MODELS["tokenhub_async"],
                "prompt": "雨中",
                "images": [ENCODED],
                "resolution": "768:1024",
                "seed": 42,
                "revise": 0,
                "logo_add": 0,
            },
        ),
        (
            "tokenhub_sync",
            "/v1/wand/hunyuan-image/v3-generation",
            {
                "model": MODELS["tokenhub_sync"],
                "prompt": "雨中",
                "images": [ENCODED],
                "size": "768x1024",
                "seed": 42,
                "revise": False,
            },
        ),
    ],
)
async def test_a_submit_is_one_post_with_the_wires_own_names(
    wires: Wires, serve: Serve, wire: str, path: str, fields: dict[str, Any]
) -> None:
    canned = Canned(ACCEPTED[wire])
    defaults: dict[str, Any] = {} if wire == "tokenhub_sync" else {"logo_add": "false"}
    provider = wires.open(wire, await serve(canned.app), **defaults)
    await provider.submit(wanted(wire, "雨中", **FULL), timeout_s=10)
    assert canned.sent == fields
    assert [str(request.url.path) for request, _ in canned.seen] == [path]


@pytest.mark.parametrize("wire", WIRES)
async def test_omitted_parameters_are_left_to_the_provider(wires: Wires, serve: Serve, wire: str) -> None:
    canned = Canned(ACCEPTED[wire])
    provider = wires.open(wire, await serve(canned.app))
    await provider.submit(wanted(wire, size=None), timeout_s=10)
    assert {name.lower() for name in canned.sent} - {"model"} == {"prompt"}


async def test_the_accounts_defaults_give_way_to_the_job(wires: Wires, serve: Serve) -> None:
    canned = Canned(ACCEPTED["tc3"])
    provider = wires.open("tc3", await serve(canned.app), logo_add="false", revise="true")
    await provider.submit(wanted("tc3", params={"logo_add": True, "revise": False}), timeout_s=10)
    assert (canned.sent["LogoAdd"], canned.sent["Revise"]) == (1, 0)
    await provider.submit(wanted("tc3"), timeout_s=10)
    assert (canned.sent["LogoAdd"], canned.sent["Revise"]) == (0, 1)


async def test_a_signed_call_names_action_version_region_and_time(wires: Wires, serve: Serve) -> None:
    canned = Canned(ACCEPTED["tc3"])
    provider = wires.open("tc3", await serve(canned.app), now=lambda: 1_700_000_000.9)
    await provider.submit(wanted("tc3"), timeout_s=10)
    headers = canned.seen[0][0].headers
    names = ("x-tc-action", "x-tc-version", "x-tc-region", "x-tc-timestamp", "content-type")
    assert [headers[name] for name in names] == [
        "SubmitTextToImageJob",
        "2022-12-29",
        "ap-guangzhou",
        "1700000000",
        "application/json",
    ]


async def test_a_poll_goes_to_the_configured_host_and_not_to_the_receipts(wires: Wires, serve: Serve) -> None:
    canned = Canned({"id": "7", "status": "queued"})
    provider = wires.open("tokenhub_async", await serve(canned.app))
    await provider.poll(Submitted("7", poll_url="https://evil.example/v1/api/image/query?model=m%2F1"))
    assert canned.sent == {"model": "m/1", "id": "7"}


async def test_a_receipt_brings_the_model_back_whatever_its_name(wires: Wires, serve: Serve) -> None:
    canned = Canned(ACCEPTED["tokenhub_async"])
    provider = wires.open("tokenhub_async", await serve(canned.app))
    submitted = await provider.submit(wanted("tokenhub_async", model="a/b&c=d #1"), timeout_s=10)
    assert isinstance(submitted, Submitted)
    await provider.poll(submitted)
    assert canned.sent == {"model": "a/b&c=d #1", "id": "7"}


async def test_a_base_url_may_end_in_v1_for_the_wires_that_have_one(wires: Wires, serve: Serve) -> None:
    canned = Canned(ACCEPTED["tokenhub_async"])
    provider = wires.open("tokenhub_async", f"{await serve(canned.app)}/v1/")
    await provider.submit(wanted("tokenhub_async"), timeout_s=10)
    assert canned.seen[0][0].url.path == "/v1/api/image/submit"


# --- the credential


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        (
            {"options": {"wire": "tc4"}},
            "one of tc3, tokenhub_async, tokenhub_sync, not 'tc4'. Did you mean 'tc3'",
        ),
        ({"options": {"regoin": "x"}}, "Did you mean 'region'"),
        ({"options": {"wire": "tokenhub_sync", "region": "x"}}, "has no regions"),
        ({"options": {"revise": "maybe"}}, "true, false"),
        ({"options": {"region": "ap-guangzhou\r\nX-Other: 1"}}, "printable ASCII"),
        (
            {"options": {"wire": "tokenhub_sync", "logo_add": "false"}, "secrets": {"api_key": "k"}},
            "has no `logo_add`",
        ),
        ({"secrets": {"secret_id": "AKIDx"}}, "(wire tc3) provider needs the secret `secret_key`"),
        ({"secrets": {"api_key": "k"}}, "secret_id"),
        (
            {"options": {"wire": "tokenhub_async"}, "secrets": {"secret_id": "i", "secret_key": "k"}},
            "api_key",
        ),
        ({"secrets": {"secret_id": "i", "secret_key": "two\nlines"}}, "one line"),
        ({"base_url": "https://aiart.tencentcloudapi.com/v1"}, "without a path"),
        ({"base_url": "ftp://x"}, "http"),
        ({"base_url": "https://user:word@x"}, "without user"),
    ],
)
def test_a_bad_credential_is_refused_with_a_sentence(given_: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {
        "base_url": None,
        "secrets": {"secret_id": "AKIDx", "secret_key": "planted-key"},
        "options": {},
    } | given_
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        create_provider("hunyuan", **arguments)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("wire", "mode", "url_ttl_s"),
    [("tc3", "task", 3600), ("tokenhub_async", "task", None), ("tokenhub_sync", "sync", 43200)],
)
async def test_capabilities_are_those_of_the_wire(
    wires: Wires, wire: str, mode: str, url_ttl_s: float | None
) -> None:
    capabilities = wires.open(wire, "http://127.0.0.1:9").capabilities(MODELS[wire])
    assert (capabilities.mode, capabilities.url_ttl_s) == (mode, url_ttl_s)
    assert (capabilities.max_prompt_chars, capabilities.max_inputs) == (8192, 3)
    assert capabilities.seed_range == (1, 4294967295)
