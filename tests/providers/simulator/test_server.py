"""The simulator over HTTP: enforced quotas, honest books, faults, and the process around it."""

from __future__ import annotations

import asyncio
import base64
import io
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from PIL import Image

from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import Rate
from tests.providers.conftest import StartSimulator


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(headers={"authorization": "Bearer k1"}, trust_env=False) as client:
        yield client


async def generate(
    http: httpx2.AsyncClient, simulator: Simulator, prompt: str = "a mug", **fields: Any
) -> httpx2.Response:
    body = {"model": "sim-1", "prompt": prompt, "size": "32x32"} | fields
    return await http.post(f"{simulator.base_url}/images/generations", json=body)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition, at most 10 s."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def test_many_at_once_never_exceed_the_windows_and_the_slots(
    http: httpx2.AsyncClient, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(images=Rate(6, 60), in_flight=4, latency_s=(0.05, 0.05))
    answers = await asyncio.gather(*(generate(http, simulator, f"p{number}") for number in range(20)))
    assert sorted({answer.status_code for answer in answers}) == [200, 429]
    assert simulator.ledger.max_in_flight <= 4
    assert simulator.ledger.max_in_window(60) <= 6
    assert simulator.ledger.billed() == sum(answer.status_code == 200 for answer in answers)


async def test_a_throttled_call_learns_when_to_return(
    http: httpx2.AsyncClient, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(images=Rate(1, 30))
    assert (await generate(http, simulator)).status_code == 200
    refused = await generate(http, simulator)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 29 <= int(refused.headers["retry-after"]) <= 31
    assert simulator.ledger.statuses() == {200: 1, 429: 1}


async def test_the_books_distinguish_a_quotas_refusal_from_a_fault(
    http: httpx2.AsyncClient, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(images=Rate(1, 30))
    simulator.faults.add(Fault(FaultKind.RATE_LIMIT))
    for _ in range(3):
        await generate(http, simulator)
    assert [(call.status, call.refused) for call in simulator.ledger.calls] == [
        (429, ""),
        (200, ""),
        (429, "images"),
    ]


async def test_retry_after_can_be_left_out(http: httpx2.AsyncClient, start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(images=Rate(1, 30), send_retry_after=False)
    await generate(http, simulator)
    refused = await generate(http, simulator)
    assert refused.status_code == 429
    assert not [name for name in refused.headers if name.startswith("retry")]


async def test_a_fault_may_have_headers_and_words_of_its_own(
    http: httpx2.AsyncClient, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator()
    simulator.faults.add(
        Fault(FaultKind.OVERLOADED, headers={"Retry-After": "0"}, words='Say "again" in 0s.')
    )
    refused = await generate(http, simulator)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "0")
    assert refused.json()["error"]["message"].startswith('Say "again" in 0s. ')


async def test_each_key_has_quotas_of_its_own(
    http: httpx2.AsyncClient, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(images=Rate(1, 30))
    assert (await generate(http, simulator)).status_code == 200
    assert (await generate(http, simulator)).status_code == 429
    http.headers["authorization"] = "Bearer k2"
    assert (await generate(http, simulator)).status_code == 200


async def test_n_pictures_cost_n(http: httpx2.AsyncClient, start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(images=Rate(3, 30))
    answer = await generate(http, simulator, n=3, seed=10)
    assert [item["seed"] for item in answer.json()["data"]] == [10, 11, 12]
    assert (await generate(http, simulator)).status_code == 429
    assert simulator.ledger.billed() == 3


async def test_the_same_prompt_without_a_seed_gives_another_picture_each_time(
    http: httpx2.AsyncClient, simulator: Simulator
) -> None:
    seeds = {(await generate(http, simulator)).json()["data"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3


async def test_a_picture_has_the_requested_size_and_format(
    http: httpx2.AsyncClient, simulator: Simulator
) -> None:
    answer = await generate(http, simulator, size="96x48", output_format="webp", output_compression=50)
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert (picture.format, picture.size) == ("WEBP", (96, 48))


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"size": "8x8"}, 400, "invalid_value"),
        ({"size": "big"}, 400, "invalid_value"),
        ({"n": 11}, 400, "invalid_value"),
        ({"n": "many"}, 400, "invalid_value"),
        ({"prompt": ""}, 400, "missing_required_parameter"),
        ({"prompt": 5}, 400, "missing_required_parameter"),
        ({"output_format": "gif"}, 400, "invalid_value"),
        ({"model": "gpt-image-2", "response_format": "url"}, 400, "unknown_parameter"),
        ({"prompt": "a forbidden thing"}, 400, "moderation_blocked"),
    ],
)
async def test_bad_requests_are_refused_and_not_billed(
    http: httpx2.AsyncClient, simulator: Simulator, fields: dict[str, Any], status: int, code: str
) -> None:
    answer = await generate(http, simulator, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert simulator.ledger.billed() == 0


async def test_a_wrong_key_is_refused(http: httpx2.AsyncClient, start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(api_keys=("right",))
    assert (await generate(http, simulator)).status_code == 401
    http.headers["authorization"] = "Bearer right"
    assert (await generate(http, simulator)).status_code == 200


async def test_the_ledger_and_the_faults_are_reached_over_http(
    http: httpx2.AsyncClient, simulator: Simulator
) -> None:
    fault = {"kind": "rate_limit", "count": 2, "retry_after_s": 7, "prompt": "mug"}
    assert (await http.post(f"{simulator.url}/simulator/faults", json=fault)).status_code == 200
    assert (await generate(http, simulator, "a vase")).status_code == 200
    assert (await generate(http, simulator, "a mug")).headers["retry-after"] == "7"
    assert (await generate(http, simulator, "a mug")).status_code == 429
    assert (await generate(http, simulator, "a mug")).status_code == 200
    ledger = (await http.get(f"{simulator.url}/simulator/ledger?entries=1")).json()
    assert ledger["statuses"] == {"200": 2, "429": 2}
    assert ledger["calls_by_prompt"] == {"a vase": 1, "a mug": 1}
    assert len(ledger["entries"]) == 4
    assert "k1" not in {entry["key"] for entry in ledger["entries"]}
    await http.post(f"{simulator.url}/simulator/reset")
    assert (await http.get(f"{simulator.url}/simulator/ledger")).json()["calls"] == 0


@pytest.mark.parametrize(
    "body", [{}, {"kind": "flood"}, {"kind": "hang", "count": 0}, {"kind": "hang", "x": 1}, []]
)
async def test_an_unknown_fault_is_refused(http: httpx2.AsyncClient, simulator: Simulator, body: Any) -> None:
    answer = await http.post(f"{simulator.url}/simulator/faults", json=body)
    assert answer.status_code == 400
    assert "rate_limit" in answer.json()["error"]


async def test_a_hanging_call_holds_its_slot_and_is_billed(
    http: httpx2.AsyncClient, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(in_flight=1)
    simulator.faults.add(Fault(FaultKind.HANG))
    hanging = asyncio.create_task(generate(http, simulator, "stuck"))
    await until(lambda: simulator.ledger.in_flight == 1)
    assert (await generate(http, simulator)).status_code == 429
    hanging.cancel()
    await until(lambda: simulator.ledger.in_flight == 0)
    assert (await generate(http, simulator)).status_code == 200
    assert simulator.ledger.billed() == 2
    assert simulator.ledger.statuses()[0] == 1


async def test_the_process_prints_its_address_and_ends_on_sigterm(http: httpx2.AsyncClient) -> None:
    command = ["-m", "providers.simulator", "--port", "0", "--images", "1/60s", "--latency", "0-0", "--plain"]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        base_url = line.split()[-1]
        for status in (200, 429):
            body = {"prompt": "a mug", "size": "32x32"}
            answer = await http.post(f"{base_url}/images/generations", json=body)
            assert answer.status_code == status
        process.send_signal(signal.SIGTERM)
        rest, _ = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, rest) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
