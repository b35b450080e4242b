"""ModelScope's own MCP server, the vendor's only packaged client for tasks, against the simulator and beside ours."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from providers.base import Generated, Pending, Provider, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.registry import create_provider
from providers.shared.answers import sniff_format
from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from tests.sdks.conftest import KEY, StartSimulator
from tests.sdks.same_request import assert_same
from tests.sdks.worker import Sdk

MODEL = "Tongyi-MAI/Z-Image-Turbo"
FIELDS = {"model": MODEL, "prompt": "a mug, 杯子"}
REQUEST = Request(request_id="r1", model=MODEL, prompt="a mug, 杯子")

# What it says of itself, and a cookie with the token for other services of the vendor.
ALLOWED = ("user-agent", "cookie", "x-request-id")


@pytest.fixture
def ours(stack: AsyncExitStack, simulator: Simulator) -> Provider:
    base_url = simulator.modelscope_url
    provider = create_provider("zimage", base_url=base_url, secrets={"api_key": KEY}, options={})
    stack.push_async_callback(provider.aclose)
    return provider


def account(simulator: Simulator) -> dict[str, Any]:
    return {"base_url": simulator.modelscope_url, "api_key": KEY}


async def test_the_vendors_client_submits_a_task_polls_it_and_finds_the_picture(
    modelscope: Sdk, simulator: Simulator
) -> None:
    done = await modelscope.call(**account(simulator), fields=FIELDS)
    assert done["ok"], done
    assert (done["fields"]["type"], done["fields"]["model"]) == ("text-to-image", MODEL)
    async with httpx2.AsyncClient() as http:
        picture = await http.get(done["fields"]["image_url"])
    assert sniff_format(picture.content) == "png"


async def test_submits_and_polls_are_sent_as_the_vendors_client_sends_them(
    modelscope: Sdk, simulator: Simulator, ours: Provider
) -> None:
    assert (await modelscope.call(**account(simulator), fields=FIELDS))["ok"]
    submit_theirs, poll_theirs, *_ = simulator.ledger.requests
    simulator.ledger.requests.clear()
    await ours.submit(REQUEST, timeout_s=10)
    await ours.poll(Submitted(poll_theirs.path.rpartition("/")[2]))
    submit_mine, poll_mine = simulator.ledger.requests
    assert_same(submit_mine, submit_theirs, but=ALLOWED)
    assert_same(poll_mine, poll_theirs, but=ALLOWED)


@pytest.mark.parametrize(
    ("kind", "text", "sorted_as"),
    [
        (FaultKind.RATE_LIMIT, "Rate limited by upstream API", ErrorKind.RATE_LIMITED),
        (FaultKind.BILLING, "Rate limited by upstream API", ErrorKind.QUOTA_EXHAUSTED),
        (FaultKind.AUTH, "401 Unauthorized", ErrorKind.AUTH),
        (FaultKind.MODERATION, "400 Bad Request", ErrorKind.MODERATION_INPUT),
        (FaultKind.SERVER_ERROR, "500 Internal Server Error", ErrorKind.PROVIDER_FAULT),
        (FaultKind.OVERLOADED, "503 Service Unavailable", ErrorKind.OVERLOADED),
        (FaultKind.EMPTY, "No task_id found", ErrorKind.AMBIGUOUS_SUBMIT),
        (FaultKind.HANG, "Request timeout", ErrorKind.AMBIGUOUS_SUBMIT),
    ],
)
async def test_a_refused_submit_is_an_error_of_the_tool_and_sorted_by_us(
    modelscope: Sdk, simulator: Simulator, ours: Provider, kind: FaultKind, text: str, sorted_as: ErrorKind
) -> None:
    """The protocol has one class of errors; which trouble it was, is in its text."""
    simulator.faults.add(Fault(kind, count=2))
    hangs = kind is FaultKind.HANG
    theirs = await modelscope.call(**account(simulator), fields=FIELDS, timeout_s=1 if hangs else 10)
    assert theirs["error"] == "ToolError"
    assert text in theirs["text"]
    with pytest.raises(ProviderError) as mine:
        await ours.submit(REQUEST, timeout_s=0.3 if hangs else 10)
    assert mine.value.kind is sorted_as


@pytest.mark.parametrize(
    ("kind", "text", "sorted_as"),
    [
        (FaultKind.TASK_FAILED, "Model inference failed: Out of memory", ErrorKind.PROVIDER_FAULT),
        (FaultKind.TASK_MODERATED, "may contain inappropriate content", ErrorKind.MODERATION_OUTPUT),
        (FaultKind.TASK_LOST, "404 Not Found", ErrorKind.TASK_LOST),
    ],
)
async def test_a_failed_task_has_its_reason_where_the_vendors_client_reads_it(
    modelscope: Sdk, simulator: Simulator, ours: Provider, kind: FaultKind, text: str, sorted_as: ErrorKind
) -> None:
    simulator.faults.add(Fault(kind, count=2))
    theirs = await modelscope.call(**account(simulator), fields=FIELDS)
    assert theirs["error"] == "ToolError"
    assert text in theirs["text"]
    receipt = await ours.submit(REQUEST, timeout_s=10)
    assert isinstance(receipt, Submitted)
    with pytest.raises(ProviderError) as mine:
        await _ended(ours, receipt)
    assert mine.value.kind is sorted_as


async def test_a_task_without_end_is_given_up_after_the_clients_own_time(
    modelscope: Sdk, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.TASK_STUCK))
    theirs = await modelscope.call(**account(simulator), fields=FIELDS, timeout_s=1)
    assert "Image generation timed out" in theirs["text"]


async def test_a_token_that_is_not_known_is_refused(modelscope: Sdk, start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(api_keys=("another",))
    theirs = await modelscope.call(**account(simulator), fields=FIELDS)
    assert "401 Unauthorized" in theirs["text"]


async def test_a_client_without_the_async_header_is_pointed_to_tasks(
    litellm: Sdk, simulator: Simulator
) -> None:
    """litellm's modelscope provider lacks the header, and the vendor refuses it with these words."""
    given = {"base_url": f"{simulator.modelscope_url}/v1", "api_key": KEY}
    theirs = await litellm.call(**given, fields={"model": f"modelscope/{MODEL}", "prompt": "a mug"})
    assert (theirs["error"], theirs["status"]) == ("BadRequestError", 400)
    assert "does not support synchronous calls" in theirs["text"]


async def _ended(provider: Provider, receipt: Submitted) -> Generated:
    async with asyncio.timeout(10):
        while isinstance(answer := await provider.poll(receipt), Pending):
            await asyncio.sleep(0.005)
    return answer
