"""OpenRouter's wires in the simulator: their refusals, their bills, and the rest of a key's limit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import Rate
from tests.providers.conftest import StartSimulator

CHAT = {
    "model": "google/gemini",
    "messages": [{"role": "user", "content": "a mug"}],
    "modalities": ["image", "text"],
}
IMAGE = {"model": "google/gemini", "prompt": "a mug"}


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(headers={"authorization": "Bearer k1"}, trust_env=False) as client:
        yield client


async def chat(http: httpx2.AsyncClient, simulator: Simulator, **fields: Any) -> httpx2.Response:
    return await http.post(f"{simulator.openrouter_url}/chat/completions", json=CHAT | fields)


async def image(http: httpx2.AsyncClient, simulator: Simulator, **fields: Any) -> httpx2.Response:
    return await http.post(f"{simulator.openrouter_url}/images", json=IMAGE | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": ""},
        {"messages": []},
        {"messages": "a mug"},
        {"modalities": ["text"]},
        {"image_config": {"aspect_ratio": "7:3"}},
        {"image_config": {"image_size": "8K"}},
        {"image_config": "16:9"},
        {"stream": True},
    ],
)
async def test_a_chat_that_cannot_draw_is_refused_and_not_billed(
    http: httpx2.AsyncClient, simulator: Simulator, fields: dict[str, Any]
) -> None:
    answer = await chat(http, simulator, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, 400)
    assert not simulator.ledger.costs()


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"n": 2},
        {"aspect_ratio": "16:10"},
        {"size": "big"},
        {"size": "8x8"},
        {"size": "1024x1024", "aspect_ratio": "16:9"},
    ],
)
async def test_an_image_that_cannot_be_is_refused_and_not_billed(
    http: httpx2.AsyncClient, simulator: Simulator, fields: dict[str, Any]
) -> None:
    answer = await image(http, simulator, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["metadata"]["error_type"] == "invalid_request"
    assert not simulator.ledger.costs()


async def test_each_answer_bills_what_its_usage_reports(
    http: httpx2.AsyncClient, simulator: Simulator
) -> None:
    reported = [await chat(http, simulator), await image(http, simulator)]
    for kind in (FaultKind.EMPTY, FaultKind.WITHHELD, FaultKind.NOT_A_PICTURE):
        simulator.faults.add(Fault(kind))
        reported.append(await chat(http, simulator))
    sums = sum(Decimal(str(answer.json()["usage"]["cost"])) for answer in reported)
    assert simulator.ledger.costs() == {"USD": sums}
    summary = (await http.get(f"{simulator.url}/simulator/ledger")).json()
    assert Decimal(summary["costs"]["USD"]) == sums


async def test_lost_answers_are_billed_and_refusals_are_not(
    http: httpx2.AsyncClient, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.DROP))
    with pytest.raises(httpx2.TransportError):
        await chat(http, simulator)
    assert simulator.ledger.costs() == {"USD": Decimal("0.0387")}
    for kind in (FaultKind.RATE_LIMIT, FaultKind.BILLING, FaultKind.SERVER_ERROR, FaultKind.ERROR_INSIDE):
        simulator.faults.add(Fault(kind))
        await image(http, simulator)
    assert simulator.ledger.costs() == {"USD": Decimal("0.0387")}
    assert simulator.ledger.statuses() == {0: 1, 429: 1, 402: 1, 500: 1, 200: 1}


async def test_both_endpoints_share_the_quotas_of_a_key(
    http: httpx2.AsyncClient, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(images=Rate(1, 30))
    assert (await chat(http, simulator)).status_code == 200
    refused = await image(http, simulator)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, 429)
    assert 29 <= int(refused.headers["retry-after"]) <= 31


async def test_a_key_is_checked_for_free(http: httpx2.AsyncClient, start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(api_keys=("k1",))
    answer = await http.get(f"{simulator.openrouter_url}/key")
    assert answer.json()["data"]["limit_remaining"] is None
    http.headers["authorization"] = "Bearer another"
    for url in (f"{simulator.openrouter_url}/key", f"{simulator.base_url}/models"):
        assert (await http.get(url)).status_code == 401
    assert (await chat(http, simulator)).status_code == 401
    assert not simulator.ledger.calls
