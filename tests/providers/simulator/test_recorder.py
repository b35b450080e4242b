"""Kept requests: whole ones if a setting says so, and none otherwise."""

from __future__ import annotations

import httpx2
import pytest

from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from tests.providers.conformance import KEY
from tests.providers.conftest import StartSimulator

BODY = b'{"prompt": "a mug",  "size": "64x64"}'


async def generate(simulator: Simulator, query: str = "") -> httpx2.Response:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient() as http:
        url = f"{simulator.base_url}/images/generations{query}"
        return await http.post(url, content=BODY, headers=headers)


async def test_a_request_is_kept_byte_for_byte_and_answered_as_ever(start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(record_requests=True)
    assert (await generate(simulator, "?a=%20b")).status_code == 200
    (request,) = simulator.ledger.requests
    assert (request.method, request.path) == ("POST", "/v1/images/generations?a=%20b")
    assert request.body == BODY
    headers = dict(request.headers)
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-length"] == str(len(BODY))


async def test_no_request_is_kept_unless_a_setting_says_so(simulator: Simulator) -> None:
    assert (await generate(simulator)).status_code == 200
    assert not simulator.ledger.requests


async def test_kept_requests_are_neither_served_nor_shown(start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(record_requests=True)
    await generate(simulator)
    assert KEY not in repr(simulator.ledger.requests)
    async with httpx2.AsyncClient() as http:
        assert KEY not in (await http.get(f"{simulator.url}/simulator/ledger?entries")).text


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.TRUNCATE])
async def test_connections_can_be_cut_under_the_recorder_too(
    start_simulator: StartSimulator, kind: FaultKind
) -> None:
    simulator = await start_simulator(record_requests=True)
    simulator.faults.add(Fault(kind))
    with pytest.raises(httpx2.TransportError):
        await generate(simulator)
    assert len(simulator.ledger.requests) == 1


async def test_a_reset_forgets_kept_requests(start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(record_requests=True)
    await generate(simulator)
    simulator.reset()
    assert not simulator.ledger.requests
    await generate(simulator)
    assert len(simulator.ledger.requests) == 1
