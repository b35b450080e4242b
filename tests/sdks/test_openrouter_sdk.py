"""OpenRouter's own SDK against the simulator, on both of its wires, and what it sends beside what we send.

Its answers are checked by the SDK's models, which take nothing that the vendor does not promise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from providers.base import Generated, Provider, Request
from providers.errors import ErrorKind, ProviderError
from providers.registry import create_provider
from providers.simulator import Simulator
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from tests.sdks.conftest import KEY
from tests.sdks.same_request import assert_same
from tests.sdks.worker import Sdk

MODEL = "google/gemini-3.1-flash-image"
FIELDS: dict[str, dict[str, Any]] = {
    "images": {"model": MODEL, "prompt": "a mug, 杯子", "aspect_ratio": "16:9", "n": 1, "seed": 7},
    "chat": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "a mug, 杯子"}],
        "modalities": ["image", "text"],
        "image_config": {"aspect_ratio": "16:9"},
        "seed": 7,
        "stream": False,
    },
}
REQUEST = Request(request_id="r1", model=MODEL, prompt="a mug, 杯子", size="16:9", seed=7)
PNG = draw(Drawing("a mug, 杯子", 7, 1344, 768, plain=True))

# What it says of itself; that it asks for JSON, where we take whatever comes and look at it; and that it escapes
# letters beyond ASCII.
ALLOWED = ("user-agent", "accept", "content-length")

BOTH = pytest.mark.parametrize("wire", ["chat", "images"])
Open = Callable[[str], Provider]


@pytest.fixture
def open_ours(stack: AsyncExitStack, simulator: Simulator) -> Open:
    def open_(wire: str) -> Provider:
        base_url, secrets = simulator.openrouter_url, {"api_key": KEY}
        provider = create_provider("openrouter", base_url=base_url, secrets=secrets, options={"wire": wire})
        stack.push_async_callback(provider.aclose)
        return provider

    return open_


def account(simulator: Simulator, wire: str) -> dict[str, Any]:
    return {"op": wire, "base_url": simulator.openrouter_url, "api_key": KEY, "fields": FIELDS[wire]}


@BOTH
async def test_the_sdk_gets_the_picture_and_the_bill_that_we_get(
    openrouter: Sdk, simulator: Simulator, open_ours: Open, wire: str
) -> None:
    theirs = await openrouter.call(**account(simulator, wire))
    assert theirs["ok"], theirs
    assert theirs["sha256"] == [hashlib.sha256(PNG).hexdigest()]
    ours = open_ours(wire)
    answer = await ours.submit(REQUEST, timeout_s=10)
    assert isinstance(answer, Generated)
    assert await ours.fetch(answer.pictures[0]) == PNG
    assert answer.cost is not None
    assert float(answer.cost) == theirs["cost"] > 0


@BOTH
async def test_a_call_is_sent_as_the_sdk_sends_it(
    openrouter: Sdk, simulator: Simulator, open_ours: Open, wire: str
) -> None:
    assert (await openrouter.call(**account(simulator, wire)))["ok"]
    await open_ours(wire).submit(REQUEST, timeout_s=10)
    theirs, mine = simulator.ledger.requests
    assert_same(mine, theirs, but=ALLOWED)


@BOTH
@pytest.mark.parametrize(
    ("kind", "retry_after_s", "raised", "status", "sorted_as"),
    [
        (FaultKind.RATE_LIMIT, 3, "TooManyRequestsResponseError", 429, ErrorKind.RATE_LIMITED),
        (FaultKind.RATE_LIMIT, None, "TooManyRequestsResponseError", 429, ErrorKind.RATE_LIMITED),
        (FaultKind.BILLING, None, "PaymentRequiredResponseError", 402, ErrorKind.BILLING_EXHAUSTED),
        (FaultKind.BILLING, 3, "PaymentRequiredResponseError", 402, ErrorKind.BUDGET_IN_FLIGHT),
        (FaultKind.AUTH, None, "UnauthorizedResponseError", 401, ErrorKind.AUTH),
        (FaultKind.MODERATION, None, "ForbiddenResponseError", 403, ErrorKind.MODERATION_INPUT),
        (FaultKind.SERVER_ERROR, None, "InternalServerResponseError", 500, ErrorKind.PROVIDER_FAULT),
    ],
)
async def test_the_sdk_raises_the_same_errors_as_for_the_vendor(
    openrouter: Sdk,
    simulator: Simulator,
    open_ours: Open,
    wire: str,
    kind: FaultKind,
    retry_after_s: float | None,
    raised: str,
    status: int,
    sorted_as: ErrorKind,
) -> None:
    simulator.faults.add(Fault(kind, count=2, retry_after_s=retry_after_s))
    theirs = await openrouter.call(**account(simulator, wire))
    assert (theirs["error"], theirs["status"]) == (raised, status)
    assert theirs["retry_after"] == (None if retry_after_s is None else f"{retry_after_s:g}")
    with pytest.raises(ProviderError) as mine:
        await open_ours(wire).submit(REQUEST, timeout_s=10)
    assert (mine.value.kind, mine.value.retry_after_s) == (sorted_as, retry_after_s)


@BOTH
async def test_a_call_without_an_answer_is_a_time_out(
    openrouter: Sdk, simulator: Simulator, wire: str
) -> None:
    simulator.faults.add(Fault(FaultKind.HANG))
    theirs = await openrouter.call(**account(simulator, wire), timeout_s=0.3)
    assert theirs["error"] == "ReadTimeout"


@BOTH
async def test_a_bad_request_is_one(openrouter: Sdk, simulator: Simulator, wire: str) -> None:
    given = account(simulator, wire)
    empty = {"prompt": ""} if wire == "images" else {"messages": [{"role": "user", "content": ""}]}
    theirs = await openrouter.call(**{**given, "fields": FIELDS[wire] | empty})
    assert (theirs["error"], theirs["status"]) == ("BadRequestResponseError", 400)


# --- An error, or nothing, inside an answer of 200: litellm, and the SDK itself, take it for a picture

NO_PICTURE = [FaultKind.ERROR_INSIDE, FaultKind.WITHHELD, FaultKind.EMPTY]


@pytest.mark.parametrize("kind", NO_PICTURE)
async def test_litellm_takes_an_answer_without_a_picture_for_a_success(
    litellm: Sdk, simulator: Simulator, kind: FaultKind
) -> None:
    simulator.faults.add(Fault(kind))
    fields = {"model": f"openrouter/{MODEL}", "prompt": "a mug"}
    theirs = await litellm.call(base_url=simulator.openrouter_url, api_key=KEY, fields=fields)
    assert (theirs["ok"], theirs.get("sha256")) == (True, []), theirs


@BOTH
@pytest.mark.parametrize("kind", NO_PICTURE)
async def test_we_say_why_there_is_no_picture(
    simulator: Simulator, open_ours: Open, wire: str, kind: FaultKind
) -> None:
    simulator.faults.add(Fault(kind))
    with pytest.raises(ProviderError):
        await open_ours(wire).submit(REQUEST, timeout_s=10)


async def test_a_chat_without_modalities_is_served_as_litellm_relies_on(
    litellm: Sdk, simulator: Simulator
) -> None:
    fields = {"model": f"openrouter/{MODEL}", "prompt": "a mug"}
    theirs = await litellm.call(base_url=simulator.openrouter_url, api_key=KEY, fields=fields)
    assert len(theirs.get("sha256", ())) == 1, theirs
