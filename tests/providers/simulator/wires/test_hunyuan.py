"""Hunyuan's wires as the simulator speaks them, to clients that are not ours."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest

from providers.hunyuan.signature import authorization
from providers.simulator import Simulator
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY
from tests.providers.conftest import StartSimulator


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(headers={"authorization": "Bearer k1"}, trust_env=False) as client:
        yield client


async def signed(
    http: httpx2.AsyncClient, simulator: Simulator, body: bytes | dict[str, Any], **headers: str
) -> httpx2.Response:
    """A call that is signed as it should be, with other headers where they are given."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    now_s = int(time.time())
    given = {
        "content-type": "application/json",
        "x-tc-action": "SubmitTextToImageJob",
        "x-tc-version": "2022-12-29",
        "x-tc-region": "ap-guangzhou",
        "x-tc-timestamp": str(now_s),
        "authorization": authorization(
            secret_id=TC3_SECRET_ID,
            secret_key=TC3_SECRET_KEY,
            service="aiart",
            host=f"127.0.0.1:{simulator.port}",
            content_type="application/json",
            body=content,
            timestamp_s=now_s,
        ),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.post(simulator.url, content=content, headers=given)


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        ({"Prompt": "a mug"}, {}, None),
        ({"Prompt": "a mug"}, {"x_tc_action": "DescribeNothing"}, "InvalidAction"),
        ({"Prompt": "a mug"}, {"x_tc_version": "2017-03-12"}, "NoSuchVersion"),
        ({"Prompt": "a mug"}, {"x_tc_region": "ap-beijing"}, "UnsupportedRegion"),
        ({"Prompt": "a mug"}, {"authorization": "Bearer k"}, "AuthFailure.InvalidAuthorization"),
        ({"Prompt": "a mug"}, {"content_type": "text/plain"}, "AuthFailure.SignatureFailure"),
        (b"no json", {}, "InvalidParameter"),
        ({}, {}, "MissingParameter"),
        ({"Prompt": "x" * 8193}, {}, "InvalidParameterValue.TextLengthExceed"),
        ({"Prompt": "a mug", "Seed": 0}, {}, "InvalidParameterValue.ParameterValueError"),
        ({"Prompt": "a mug", "Resolution": "2048:2048"}, {}, "InvalidParameterValue.ParameterValueError"),
        ({"Prompt": "a mug", "Resolution": "1024x1024"}, {}, "InvalidParameterValue.ParameterValueError"),
        (
            {"Prompt": "a mug", "Images": ["a", "b", "c", "d"]},
            {},
            "InvalidParameterValue.ParameterValueError",
        ),
        ({"Prompt": "a mug", "Style": "201"}, {}, "UnknownParameter"),
        ({"Prompt": "a forbidden thing"}, {}, "OperationDenied.TextIllegalDetected"),
        ({"JobId": "1"}, {"x_tc_action": "QueryTextToImageJob"}, "FailedOperation.JobNotExist"),
    ],
)
async def test_every_signed_answer_is_200_and_plain_json_and_refusals_are_free(
    http: httpx2.AsyncClient, simulator: Simulator, body: Any, headers: dict[str, str], code: str | None
) -> None:
    answer = await signed(http, simulator, body, **headers)
    # The vendor's client reads an error only from such an answer.
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json()["Response"].get("Error", {}).get("Code") == code
    assert sum(call.admitted for call in simulator.ledger.calls) == (code is None)


async def generated(http: httpx2.AsyncClient, simulator: Simulator, **fields: Any) -> httpx2.Response:
    body = {"model": "hy-image-v3", "prompt": "a mug", "size": "512x512"} | fields
    return await http.post(f"{simulator.url}/v1/wand/hunyuan-image/v3-generation", json=body)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"prompt": ""}, 400, "400001"),
        ({"model": ""}, 400, "400001"),
        ({"seed": 0}, 400, "400001"),
        ({"size": "512:512"}, 400, "400001"),
        ({"resolution": "512:512"}, 400, "400001"),
        ({"images": ["a", "b", "c", "d"]}, 400, "400001"),
        ({"prompt": "gore"}, 451, "451001"),
    ],
)
async def test_bad_calls_to_tokenhub_are_refused_and_not_billed(
    http: httpx2.AsyncClient, simulator: Simulator, fields: dict[str, Any], status: int, code: str
) -> None:
    answer = await generated(http, simulator, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert simulator.ledger.billed() == 0


async def test_a_seed_means_nothing_while_the_prompt_is_rewritten(
    http: httpx2.AsyncClient, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(plain=False)

    async def picture(**fields: Any) -> bytes:
        answer = await generated(http, simulator, seed=7, **fields)
        return (await http.get(answer.json()["data"][0]["url"])).content

    assert await picture() != await picture()
    assert await picture(revise=False) == await picture(revise=False)


async def test_a_query_to_tokenhub_needs_a_key_a_model_and_a_known_id(
    http: httpx2.AsyncClient, simulator: Simulator
) -> None:
    url = f"{simulator.url}/v1/api/image/query"
    assert (await http.post(url, json={"id": "7"})).status_code == 400
    assert (await http.post(url, json={"id": "7", "model": "m"})).status_code == 404
    del http.headers["authorization"]
    assert (await http.post(url, json={"id": "7", "model": "m"})).status_code == 401
