"""Requests that wait for the end of work: how a wait ends, and what it holds meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.rig import Door, refusal
from tests.daemon.harness import eventually

JOB = {"id": "k1", "prompt": "a kettle"}


async def test_a_job_that_ends_in_time_is_answered_with_its_record(door: Door) -> None:
    answer = await door.http.post("/v1/jobs", json=JOB, headers={"Prefer": "respond-async, wait=30"})
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.headers["location"] == f"{door.url}/v1/jobs/k1"


async def test_a_job_that_ends_later_is_only_accepted(quiet_door: Door) -> None:
    answer = await quiet_door.http.post("/v1/jobs", json=JOB, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"
    assert (await quiet_door.http.get("/v1/jobs/k1?wait=0")).json()["state"] == "queued"


@pytest.mark.parametrize("path", ["/v1/jobs/k1", "/v1/jobs/k3", "/v1/batches/b1/items/i0"])
async def test_a_request_waits_for_the_end_of_the_work(quiet_door: Door, path: str) -> None:
    await quiet_door.http.post("/v1/jobs", json=JOB)
    await quiet_door.http.post("/v1/jobs", json={**JOB, "id": "k3", "n": 3})
    await quiet_door.installation.batch("b1", 1)
    waiting = asyncio.create_task(quiet_door.http.get(f"{path}?wait=60"))
    await eventually(waits(quiet_door, 1))
    await quiet_door.http.post(f"{path}/cancel")
    assert (await waiting).json()["state"] == "cancelled"
    assert len(quiet_door.gateway.waiting) == 0


@pytest.mark.parametrize(("pictures", "state"), [(1, "held"), (3, "running")])
async def test_a_job_that_needs_a_person_ends_the_wait(door: Door, pictures: int, state: str) -> None:
    job = {"prompt": "odd", "n": pictures}
    answer = await door.http.post("/v1/jobs", json=job, headers={"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["state"]) == (202, state)
    assert answer.json()["bound"] == "held"


async def test_a_client_that_goes_away_ends_its_wait(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json=JOB)
    waiting = asyncio.create_task(quiet_door.http.get("/v1/jobs/k1?wait=60"))
    await eventually(waits(quiet_door, 1))
    waiting.cancel()
    await eventually(waits(quiet_door, 0))


async def test_many_waits_hold_no_connection_to_redis(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.http.post("/v1/jobs", json=JOB)
    before = (await redis.info("clients"))["connected_clients"]
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=quiet_door.url, timeout=60, limits=limits) as http:
        waiting = [asyncio.create_task(http.get("/v1/jobs/k1?wait=60")) for _ in range(150)]
        await eventually(waits(quiet_door, 150))
        assert (await redis.info("clients"))["connected_clients"] < before + 100
        await quiet_door.http.post("/v1/jobs/k1/cancel")
        answers = await asyncio.gather(*waiting)
    assert {answer.json()["state"] for answer in answers} == {"cancelled"}


async def test_a_gateway_that_stops_ends_its_waits(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json=JOB)
    waiting = asyncio.create_task(quiet_door.http.get("/v1/jobs/k1?wait=60"))
    await eventually(waits(quiet_door, 1))
    await quiet_door.gateway.end_streams()
    assert (await waiting).json()["state"] == "queued"


@pytest.mark.parametrize("wait", ["x", "61", "-1", "1.5", ""])
async def test_a_wait_that_cannot_be_read_is_refused(quiet_door: Door, wait: str) -> None:
    await quiet_door.http.post("/v1/jobs", json=JOB)
    answer = await quiet_door.http.get(f"/v1/jobs/k1?wait={wait}")
    assert refusal(answer) == (400, "bad_parameter", "wait")


def waits(door: Door, count: int) -> Any:
    """A check that so many requests wait."""

    async def check() -> bool:
        return len(door.gateway.waiting) == count

    return check
