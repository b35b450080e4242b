"""OpenAI's own SDK, versions 2 and 3, against the simulator, and what it sends beside what we send."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from providers.base import Generated, InputImage, Provider, Request
from providers.errors import ErrorKind, ProviderError
from providers.registry import create_provider
from providers.simulator import Simulator, SimulatorSettings
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import Rate
from tests.daemon.harness import eventually
from tests.sdks.conftest import KEY, StartSimulator
from tests.sdks.same_request import assert_same
from tests.sdks.worker import Sdk

FIELDS = {"model": "sim-1", "prompt": "a mug", "size": "64x64", "n": 1}
REQUEST = Request(request_id="r1", model="sim-1", prompt="a mug", size="64x64")
PNG = draw(Drawing("a mug", 7, 64, 64, plain=True))

# What the SDK says of itself; and that it asks for JSON, where we take whatever comes and look at it.
ALLOWED = ("user-agent", "x-stainless-*", "accept")


@pytest.fixture
def ours(stack: AsyncExitStack, simulator: Simulator) -> Provider:
    provider = create_provider("openai", base_url=simulator.base_url, secrets={"api_key": KEY}, options={})
    stack.push_async_callback(provider.aclose)
    return provider


def account(simulator: Simulator) -> dict[str, Any]:
    return {"base_url": simulator.base_url, "api_key": KEY}


async def test_the_sdk_gets_the_picture_that_we_get(
    openai: Sdk, simulator: Simulator, ours: Provider
) -> None:
    # Its types are checked strictly there: an answer that the vendor would not give is an error.
    theirs = await openai.call(**account(simulator), fields={**FIELDS, "extra_body": {"seed": 7}})
    assert theirs["ok"], theirs
    assert theirs["sha256"] == [hashlib.sha256(PNG).hexdigest()]
    assert theirs["request_id"].startswith("req_")
    assert theirs["usage"]["input_tokens_details"]["text_tokens"] == 10
    answer = await ours.submit(Request(**{**_named(REQUEST), "seed": 7}), timeout_s=10)
    assert isinstance(answer, Generated)
    assert await ours.fetch(answer.pictures[0]) == PNG


async def test_a_generation_is_sent_as_the_sdk_sends_it(
    openai: Sdk, simulator: Simulator, ours: Provider
) -> None:
    fields = {**FIELDS, "prompt": "a mug, 杯子 “ü”", "quality": "low", "output_format": "jpeg"}
    fields |= {"output_compression": 70, "extra_body": {"seed": 7}}
    request = Request(
        request_id="r1",
        model="sim-1",
        prompt="a mug, 杯子 “ü”",
        size="64x64",
        seed=7,
        params={"quality": "low"},
        output_format="jpeg",
        quality=70,
    )
    assert (await openai.call(**account(simulator), fields=fields))["ok"]
    await ours.submit(request, timeout_s=10)
    theirs, mine = simulator.ledger.requests
    assert_same(mine, theirs, but=ALLOWED)


@pytest.mark.parametrize("count", [2, 3])
async def test_an_edit_is_the_form_that_the_sdk_sends(
    openai: Sdk, simulator: Simulator, ours: Provider, count: int
) -> None:
    inputs = [draw(Drawing("in", seed, 32, 32, plain=True)) for seed in range(count)]
    images = [
        (f"input-{k}.png", base64.b64encode(data).decode(), "image/png") for k, data in enumerate(inputs)
    ]
    done = await openai.call(**account(simulator), fields=FIELDS, images=images)
    assert done["ok"], done
    request = Request(
        **{**_named(REQUEST), "inputs": tuple(InputImage(data, "image/png", "image") for data in inputs)}
    )
    await ours.submit(request, timeout_s=10)
    theirs, mine = simulator.ledger.requests
    assert_same(mine, theirs, but=ALLOWED)


@pytest.mark.parametrize(
    ("kind", "retry_after_s", "raised", "status", "code", "sorted_as"),
    [
        (FaultKind.RATE_LIMIT, 3, "RateLimitError", 429, "rate_limit_exceeded", ErrorKind.RATE_LIMITED),
        (FaultKind.RATE_LIMIT, None, "RateLimitError", 429, "rate_limit_exceeded", ErrorKind.RATE_LIMITED),
        (FaultKind.BILLING, None, "RateLimitError", 429, "credit_balance_exhausted", ErrorKind.BILLING_EXHAUSTED),
        (FaultKind.AUTH, None, "AuthenticationError", 401, "invalid_api_key", ErrorKind.AUTH),
        (FaultKind.MODERATION, None, "BadRequestError", 400, "moderation_blocked", ErrorKind.MODERATION_INPUT),
        (FaultKind.SERVER_ERROR, None, "InternalServerError", 500, "server_error", ErrorKind.PROVIDER_FAULT),
        (FaultKind.OVERLOADED, None, "InternalServerError", 503, "server_is_overloaded", ErrorKind.OVERLOADED),
        (FaultKind.BAD_GATEWAY, None, "InternalServerError", 502, None, ErrorKind.AMBIGUOUS_SUBMIT),
        (FaultKind.DROP, None, "APIConnectionError", None, None, ErrorKind.AMBIGUOUS_SUBMIT),
        (FaultKind.TRUNCATE, None, "APIConnectionError", None, None, ErrorKind.AMBIGUOUS_SUBMIT),
        (FaultKind.HANG, None, "APITimeoutError", None, None, ErrorKind.AMBIGUOUS_SUBMIT),
    ],
)  # fmt: skip
async def test_the_sdk_raises_the_same_errors_as_for_the_vendor(
    openai: Sdk,
    simulator: Simulator,
    ours: Provider,
    kind: FaultKind,
    retry_after_s: float | None,
    raised: str,
    status: int | None,
    code: str | None,
    sorted_as: ErrorKind,
) -> None:
    simulator.faults.add(Fault(kind, count=2, retry_after_s=retry_after_s))
    hangs = kind is FaultKind.HANG
    theirs = await openai.call(**account(simulator), fields=FIELDS, timeout_s=0.3 if hangs else 10)
    assert (theirs["error"], theirs["status"], theirs["code"]) == (raised, status, code)
    assert theirs["retry_after"] == (None if retry_after_s is None else f"{retry_after_s:g}")
    with pytest.raises(ProviderError) as mine:
        await ours.submit(REQUEST, timeout_s=0.3 if hangs else 10)
    assert (mine.value.kind, mine.value.retry_after_s) == (sorted_as, retry_after_s)


async def test_a_bad_request_names_its_field(openai: Sdk, simulator: Simulator) -> None:
    theirs = await openai.call(**account(simulator), fields={**FIELDS, "n": 11})
    assert (theirs["error"], theirs["param"], theirs["status"]) == ("BadRequestError", "n", 400)


async def test_a_key_that_is_not_known_is_refused(openai: Sdk, start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(api_keys=("another",))
    theirs = await openai.call(**account(simulator), fields=FIELDS)
    assert (theirs["error"], theirs["code"]) == ("AuthenticationError", "invalid_api_key")


async def test_the_sdk_comes_back_when_the_quota_says_and_is_then_served(openai: Sdk) -> None:
    clock = [0.0]
    settings = SimulatorSettings(latency_s=(0.0, 0.0), plain=True, requests=Rate(1, 1.0))
    async with Simulator(settings, clock=lambda: clock[0]) as simulator:

        async def refused() -> bool:
            return simulator.ledger.statuses().get(429) == 1

        assert (await openai.call(**account(simulator), fields=FIELDS))["ok"]
        second = asyncio.create_task(openai.call(**account(simulator), fields=FIELDS, max_retries=1))
        await eventually(refused)
        clock[0], refused_at_s = 2.0, time.monotonic()
        assert (await second)["ok"]
        # Without a header that it understands it would come back within half a second.
        assert time.monotonic() - refused_at_s > 0.8
        assert simulator.ledger.statuses() == {200: 2, 429: 1}


async def test_a_quota_may_turn_a_call_away_without_saying_for_how_long(
    openai: Sdk, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(requests=Rate(1, 60), send_retry_after=False)
    await openai.call(**account(simulator), fields=FIELDS)
    theirs = await openai.call(**account(simulator), fields=FIELDS)
    assert (theirs["error"], theirs["retry_after"]) == ("RateLimitError", None)


def _named(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in ("request_id", "model", "prompt", "size")}
