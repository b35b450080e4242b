"""The outlook of work: how many items come before it, how long it takes, what holds it back, and until when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.gateway import estimate
from daemon.queue import pauses
from limiter.quota.quota import parse_quota
from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer

QUOTA = parse_quota("q", {"requests": "2/min"})
NOTHING = {"position": None, "eta_seconds": None, "bound": None, "next_slot_at": None}


@pytest.fixture
async def office(
    redis: Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Door]:
    """A gateway whose route has a quota of two calls a minute; each answer looks at Redis again."""
    monkeypatch.setattr(estimate, "LOOK_EVERY_S", -1.0)
    async with open_door(redis, redis_server.url, decide=None) as door:
        door.gateway.routes["default"].quotas = (QUOTA,)
        yield door


async def outlook(door: Door, path: str = "/v1/jobs/k1") -> dict[str, Any]:
    record = (await door.http.get(path)).json()
    return {name: record[name] for name in NOTHING}


async def submit(door: Door, *idents: str, **fields: Any) -> None:
    for ident in idents:
        answer = await door.http.post("/v1/jobs", json={"id": ident, "prompt": "x", **fields})
        assert answer.status_code == 202


def seconds_until(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


async def test_the_time_grows_with_the_items_before(office: Door, redis: Redis) -> None:
    await redis.hset("pixmill:call_s", "default", "4.0")
    await submit(office, "k1", "k2", "k3")
    found = [await outlook(office, f"/v1/jobs/k{k}") for k in (1, 2, 3)]
    assert [each["position"] for each in found] == [0, 1, 2]
    first, second, third = [each["eta_seconds"] for each in found]
    assert (first, second) == (4.0, 4.0)
    assert third >= 60


async def test_without_the_length_of_a_call_its_quota_is_known(office: Door) -> None:
    await submit(office, "k1")
    assert await outlook(office) == {**NOTHING, "position": 0, "eta_seconds": 0.0}


async def test_a_used_up_quota_has_a_name_and_a_next_slot(office: Door) -> None:
    for k in range(2):
        await office.gateway.limiter.acquire([QUOTA], holder="w", request_id=f"r{k}", max_wait_s=0)
    await submit(office, "k1")
    found = await outlook(office)
    assert found["bound"] == "quota:q.requests"
    assert 0 < seconds_until(found["next_slot_at"]) <= 61
    assert abs(seconds_until(found["next_slot_at"]) - found["eta_seconds"]) < 5


async def test_a_paused_quota_has_no_time(office: Door) -> None:
    await office.gateway.limiter.pause("q", "maintenance", None)
    await submit(office, "k1")
    assert await outlook(office) == {**NOTHING, "position": 0, "bound": "quota:q.paused"}


async def test_a_pause_of_the_fleet_is_the_bound_until_it_ends(office: Door, redis: Redis) -> None:
    await pauses.pause(redis, office.gateway.keys, "fleet", for_s=300)
    await submit(office, "k1")
    found = await outlook(office)
    assert (found["bound"], found["position"]) == ("paused:fleet", 0)
    assert 290 < seconds_until(found["next_slot_at"]) <= 300


async def test_a_provider_out_of_reach_is_the_bound(office: Door, redis: Redis) -> None:
    await redis.set("pixmill:unreachable:default", orjson.dumps({"provider": "x", "message": "y"}))
    await submit(office, "k1")
    assert await outlook(office) == {**NOTHING, "position": 0, "bound": "provider:scripted unreachable"}


async def test_what_may_not_start_yet_has_its_time(office: Door) -> None:
    start = datetime.now(UTC) + timedelta(hours=1)
    await submit(office, "k1", not_before=start.isoformat())
    found = await outlook(office)
    assert (found["position"], found["bound"]) == (None, "not_before")
    assert abs((datetime.fromisoformat(found["next_slot_at"]) - start).total_seconds()) < 0.01
    assert 3590 < found["eta_seconds"] <= 3600


async def test_what_runs_has_the_rest_of_a_call(office: Door, redis: Redis) -> None:
    await redis.hset("pixmill:call_s", "default", "1000")
    await submit(office, "k1")
    await office.installation.claim(1)
    found = await outlook(office)
    assert (found["position"], found["bound"]) == (None, None)
    assert 900 < found["eta_seconds"] <= 1000


async def test_several_pictures_are_as_many_calls(office: Door) -> None:
    await submit(office, "k0")
    await submit(office, "k1", n=4)
    found = await outlook(office)
    assert (found["position"], found["eta_seconds"]) == (1, QUOTA.optimum_s(5, 0.0))


async def test_an_item_of_a_paused_batch_waits_for_its_resume(office: Door, redis: Redis) -> None:
    await office.installation.batch("b1", 1)
    await pauses.pause(redis, office.gateway.keys, "batch", "default/b1")
    assert await outlook(office, "/v1/batches/b1/items/i0") == {**NOTHING, "bound": "paused:batch"}


async def test_a_batch_has_the_time_of_its_last_item(office: Door) -> None:
    await office.installation.batch("b1", 5)
    view = await office.gateway.records.group("default/b1")
    assert view is not None
    found = await office.gateway.estimates.of(view)
    assert (found.position, found.eta_s, found.bound) == (None, QUOTA.optimum_s(5, 0.0), None)


async def test_a_limit_that_an_operator_set_counts(office: Door, redis: Redis) -> None:
    office.gateway.settings.quotas["q"] = {"requests": "2/min"}
    await redis.hset("pixmill:quotas", "q", '{"requests": "1/min"}')
    await submit(office, "k1", "k2")
    assert (await outlook(office, "/v1/jobs/k2"))["eta_seconds"] >= 60


async def dry_run(door: Door) -> tuple[float | None, str | None]:
    """The seconds and the bound of a batch of two pictures, for which the quota alone needs no time."""
    items = [{"id": ident, "prompt": "x"} for ident in ("a", "b")]
    plan = (await door.http.post("/v1/batches?dry_run=1", json={"items": items})).json()
    return plan["seconds"], plan["bound"]


async def test_a_dry_run_on_a_free_route_has_the_time_of_its_quota(office: Door) -> None:
    assert await dry_run(office) == (0.0, "quota:q.requests")


async def test_a_dry_run_on_a_paused_route_has_no_time_and_its_pause(office: Door, redis: Redis) -> None:
    await pauses.pause(redis, office.gateway.keys, "route", "default")
    assert await dry_run(office) == (None, "paused:route")


async def test_a_dry_run_on_a_route_out_of_reach_has_no_time(office: Door, redis: Redis) -> None:
    await redis.set("pixmill:unreachable:default", orjson.dumps({"provider": "x", "message": "y"}))
    assert await dry_run(office) == (None, "provider:scripted unreachable")


async def test_a_dry_run_counts_a_pause_that_ends(office: Door, redis: Redis) -> None:
    await pauses.pause(redis, office.gateway.keys, "fleet", for_s=300)
    seconds, bound = await dry_run(office)
    assert (seconds is not None and 290 < seconds <= 300, bound) == (True, "paused:fleet")


async def test_a_dry_run_counts_the_cooldown_of_a_quota(office: Door) -> None:
    await office.gateway.limiter.penalise(QUOTA, retry_after_s=60, reason="429")
    seconds, bound = await dry_run(office)
    assert (seconds is not None and seconds > 50, bound) == (True, "quota:q.cooldown")
