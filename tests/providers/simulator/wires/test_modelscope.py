"""The simulator's ModelScope wire: its demands on a client, and its reports of quotas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from providers.simulator import Simulator, SimulatorSettings
from providers.simulator.settings import Rate
from tests.daemon.harness import eventually

SUBMIT = {"Authorization": "Bearer ms-1", "X-ModelScope-Async-Mode": "true"}
POLL = {"Authorization": "Bearer ms-1", "X-ModelScope-Task-Type": "image_generation"}
BODY: dict[str, Any] = {"model": "Tongyi-MAI/Z-Image-Turbo", "prompt": "a mug", "size": "512x512"}


@asynccontextmanager
async def wire(**settings: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, Simulator]]:
    given: dict[str, Any] = {"latency_s": (0.0, 0.0), "plain": True} | settings
    simulator = Simulator(SimulatorSettings(**given))
    transport = httpx2.ASGITransport(app=simulator.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://simulator/modelscope/v1") as http:
        yield http, simulator
        await simulator.stop()


async def test_a_task_is_submitted_polled_and_fetched() -> None:
    async with wire() as (http, simulator):
        accepted = (await http.post("/images/generations", json=BODY, headers=SUBMIT)).json()

        async def done() -> Any:
            answer = (await http.get(f"/tasks/{accepted['task_id']}", headers=POLL)).json()
            return answer if answer["task_status"] == "SUCCEED" else None

        (url,) = (await eventually(done))["output_images"]
        assert (await http.get(url)).content.startswith(b"\x89PNG")
        assert simulator.ledger.billed() == 1


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({}, 401, "valid ModelScope token"),
        ({"Authorization": "Basic ms-1"}, 401, "valid ModelScope token"),
        ({"Authorization": "Bearer other"}, 401, "valid ModelScope token"),
        ({"X-ModelScope-Async-Mode": "false"}, 400, "does not support synchronous calls"),
    ],
)
async def test_a_submit_needs_a_known_token_and_the_async_mode(
    headers: dict[str, str], status: int, says: str
) -> None:
    sent = {**SUBMIT, **headers} if headers else {}
    async with wire(api_keys=("ms-1",)) as (http, simulator):
        answer = await http.post("/images/generations", json=BODY, headers=sent)
        assert answer.status_code == status
        assert says in answer.text
        assert simulator.ledger.billed() == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"X-ModelScope-Task-Type": ""}, 400),
        ({"Authorization": "Bearer ms-2"}, 404),
    ],
)
async def test_a_poll_needs_the_token_of_the_submit_and_the_type_of_the_task(
    headers: dict[str, str], status: int
) -> None:
    async with wire() as (http, _):
        accepted = (await http.post("/images/generations", json=BODY, headers=SUBMIT)).json()
        answer = await http.get(f"/tasks/{accepted['task_id']}", headers={**POLL, **headers})
        assert answer.status_code == status


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": "x" * 2000},
        {"prompt": None},
        {"negative_prompt": "x" * 2000},
        {"model": "no-owner"},
        {"model": None},
        {"size": "256x256"},
        {"size": "512x4096"},
        {"size": "16:9"},
        {"seed": -1},
        {"seed": 2**31},
        {"seed": 1.5},
        {"steps": 0},
        {"steps": 9.5},
        {"guidance": 0.0},
        {"guidance": "3"},
    ],
)
async def test_a_call_that_the_service_would_refuse_is_refused(wrong: dict[str, Any]) -> None:
    async with wire() as (http, simulator):
        answer = await http.post("/images/generations", json=BODY | wrong, headers=SUBMIT)
        assert answer.status_code == 400
        assert answer.json()["errors"]["message"]
        assert simulator.ledger.billed() == 0


async def test_a_used_up_day_has_headers_and_the_words_of_a_spent_allowance() -> None:
    async with wire(requests=Rate.parse("2/24h")) as (http, _):
        answers = [await http.post("/images/generations", json=BODY, headers=SUBMIT) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        left = [answer.headers["modelscope-ratelimit-requests-remaining"] for answer in answers]
        assert left == ["1", "0", "0"]
        assert {answer.headers["modelscope-ratelimit-model-requests-limit"] for answer in answers} == {"2"}
        assert "free allocated quota exceeded" in answers[2].text
        assert "retry-after" not in answers[2].headers


async def test_limits_of_other_periods_have_no_header() -> None:
    async with wire(requests=Rate.parse("1/6s")) as (http, _):
        answers = [await http.post("/images/generations", json=BODY, headers=SUBMIT) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert not [name for name in answers[0].headers if "ratelimit" in name]
        assert 1 <= int(answers[1].headers["retry-after"]) <= 7
