"""The installation at a glance."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome, Succeeded
from pixmill.contract import Job
from tests.daemon.gateway.callers.keys import JOB, made
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.harness import eventually
from tests.daemon.live import made as picture
from tests.servers import RedisServer


async def paid(item: Claimed, _: Job) -> Outcome | None:
    return Succeeded({**picture(item).result, "cost": {"amount": "0.015", "currency": "USD"}})


async def test_an_installation_without_replicas_says_so(quiet_door: Door) -> None:
    assert (await quiet_door.http.get("/v1/status")).json() == {
        "replicas": 0,
        "oldest_wait_seconds": 0.0,
        "today": {"pictures": 0, "cost": {}},
    }


async def test_the_oldest_wait_is_that_of_the_item_that_waits_longest(
    redis: Redis, redis_server: RedisServer
) -> None:
    ages_s = {"default": (100, 2000), "other": (1000, 10)}
    async with open_door(redis, redis_server.url, decide=None, routes=(*ages_s, "third")) as door:
        for route, ages in ages_s.items():
            now_s, _ = await redis.time()
            for age_s in ages:
                await redis.zadd(door.gateway.keys.waiting(route), {f"w{age_s}": (now_s - age_s) * 1e6})
        assert 2000 <= (await door.http.get("/v1/status")).json()["oldest_wait_seconds"] < 2100


async def test_a_fleet_that_cannot_be_counted_is_not_one_without_replicas(
    quiet_door: Door, redis: Redis
) -> None:
    await redis.set(quiet_door.gateway.keys.jobs, "a key of another type")
    assert (await quiet_door.http.get("/v1/status")).status_code == 503


async def test_a_replica_counts_while_it_reads(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def replicas() -> int:
        count: int = (await door.http.get("/v1/status")).json()["replicas"]
        return count

    async def is_one() -> bool:
        return await replicas() == 1

    await eventually(is_one)
    monkeypatch.setattr("daemon.gateway.fleet.LIVE_S", -1.0)
    assert await replicas() == 0


async def test_todays_pictures_and_cost_are_those_of_the_callers_tenant(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    shop, other = made(keys, "shop", "submit"), made(keys, "other", "read", tenant="other")
    boss = made(keys, "boss", "admin", tenant="other")
    async with open_door(redis, redis_server.url, decide=paid, keys_file=keys) as door:
        for ident in ("a", "b"):
            answer = await door.http.post("/v1/jobs", json={**JOB, "id": ident}, headers=shop)
            assert answer.status_code == 202

        async def both_done() -> bool:
            today = (await door.http.get("/v1/status", headers=shop)).json()["today"]
            return bool(today == {"pictures": 2, "cost": {"USD": "0.03"}})

        await eventually(both_done)
        mine = await door.http.get("/v1/status", headers=other)
        assert mine.json()["today"] == {"pictures": 0, "cost": {}}
        assert (await door.http.get("/v1/status?tenant=shop", headers=other)).status_code == 403
        assert (await door.http.get("/v1/status", headers=boss)).json()["today"]["pictures"] == 2
