"""Quotas, routes, pauses and dead letters over HTTP: what operators see and change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.gateway.callers.keys_file import add_key
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome, Succeeded
from daemon.queue.pauses import read_pauses
from limiter import Limiter
from pixmill.contract import Job
from pixmill.contract.schema import schema
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.harness import eventually
from tests.daemon.live import made, refused
from tests.servers import RedisServer


@pytest.fixture
async def limited(redis: Redis, redis_server: RedisServer) -> AsyncIterator[Door]:
    """A gateway that knows one quota."""
    async with open_door(redis, redis_server.url) as door:
        quotas: dict[str, dict[str, Any]] = {"main": {"images": "20/min", "in_flight": 2}}
        door.gateway.settings = door.gateway.settings.model_copy(update={"quotas": quotas})
        yield door


async def test_quotas_show_what_is_left_in_words_and_figures(limited: Door) -> None:
    (quota,) = (await limited.http.get("/v1/quotas")).json()["quotas"]
    assert quota["limits"] == ["images 20/min", "in_flight 2"]
    assert quota["units"][0] == {"unit": "images", "capacity": 20, "available": 20}
    assert quota["bound"] is None


async def test_a_quota_is_paused_with_a_reason_and_resumed(limited: Door) -> None:
    paused = await limited.http.post("/v1/quotas/main/pause", json={"reason": "invoice", "for": "10min"})
    assert (paused.status_code, paused.json()["paused"]) == (202, True)
    (quota,) = (await limited.http.get("/v1/quotas")).json()["quotas"]
    assert (quota["bound"], quota["paused_reason"]) == ("paused", "invoice")
    assert (await limited.http.post("/v1/quotas/main/resume")).json() == {"quota": "main", "resumed": True}
    assert (await limited.http.post("/v1/quotas/main/resume")).json()["resumed"] is False


@pytest.mark.parametrize(("address", "name"), [("/v1", "fleet"), ("/v1/routes/default", "route:default")])
async def test_the_fleet_or_a_route_is_paused_and_resumed(
    limited: Door, redis: Redis, address: str, name: str
) -> None:
    assert (await limited.http.post(f"{address}/pause", json={"reason": "move"})).status_code == 202
    assert (await read_pauses(redis, limited.gateway.keys))[name].reason == "move"
    shown = (await limited.http.get("/v1/routes")).json()["routes"][0]
    assert shown["paused"]["reason"] == "move"
    assert (await limited.http.post(f"{address}/resume")).json()["resumed"] is True
    assert await read_pauses(redis, limited.gateway.keys) == {}


@pytest.fixture
async def keyed(redis: Redis, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway that knows one quota, and whose caller is an administrator named `boss`."""
    path = tmp_path / "keys.json"
    key = {"authorization": f"Bearer {add_key(path, 'boss', 'shop', frozenset({'admin'}))}"}
    async with open_door(redis, redis_server.url, decide=None, headers=key, keys_file=path) as door:
        quotas: dict[str, dict[str, Any]] = {"main": {"images": "20/min"}}
        door.gateway.settings = door.gateway.settings.model_copy(update={"quotas": quotas})
        yield door


@pytest.mark.parametrize("reason", ["invoice", "", "invoice (by clerk)"])
async def test_a_pause_names_who_paused(keyed: Door, reason: str) -> None:
    terms = {"reason": reason, "for": "10min"}
    for address in ("/v1/quotas/main/pause", "/v1/routes/default/pause", "/v1/pause"):
        paused = (await keyed.http.post(address, json=terms)).json()
        assert paused["paused_by"] == "boss"
        assert datetime.fromisoformat(paused["until"]) > datetime.now(UTC) + timedelta(minutes=9)
    shown = (await keyed.http.get("/v1/quotas")).json()
    (quota,), pauses = shown["quotas"], shown["pauses"]
    assert (quota["paused_reason"], quota["paused_by"]) == (reason, "boss")
    assert {(pause["scope"], pause["reason"], pause["paused_by"]) for pause in pauses} == {
        ("fleet", reason, "boss"),
        ("route", reason, "boss"),
    }


async def test_a_pause_of_a_batch_names_who_paused(keyed: Door) -> None:
    await keyed.http.post("/v1/batches", json={"id": "b1", "items": [{"id": "a", "prompt": "x"}]})
    assert (await keyed.http.get("/v1/batches/b1")).json()["paused_by"] is None
    await keyed.http.post("/v1/batches/b1/pause", json={"reason": "wrong prompt"})
    batch = (await keyed.http.get("/v1/batches/b1")).json()
    assert (batch["paused"], batch["paused_by"]) == ("wrong prompt", "boss")


@pytest.mark.parametrize(
    "address", ["/v1/quotas/mian", "/v1/routes/nowhere", "/v1/quotas/..%2f", "/v1/routes/%00"]
)
async def test_an_unknown_name_pauses_nothing(limited: Door, redis: Redis, address: str) -> None:
    answer = await limited.http.post(f"{address}/pause", json={})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert await redis.keys("*paus*") == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"for": "soon"}, "for"),
        ({"for": 3}, "for"),
        ({"for": "0s"}, "for"),
        ({"reason": 3}, "reason"),
        ({"x": 1}, "x"),
    ],
)
async def test_terms_of_a_pause_that_cannot_be_read_pause_nothing(
    limited: Door, body: dict[str, Any], field: str
) -> None:
    answer = await limited.http.post("/v1/quotas/main/pause", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert not await _is_paused(limited.gateway.limiter, limited)


async def _is_paused(limiter: Limiter, door: Door) -> bool:
    (quota,) = (await door.http.get("/v1/quotas")).json()["quotas"]
    return bool(quota["paused"])


async def test_a_dead_letter_is_shown_and_retried_once(limited: Door) -> None:
    await limited.installation.redis.xadd("pixmill:jobs", {"data": "{"})

    async def letters() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await limited.http.get("/v1/dead?reason=malformed")).json()["dead"]
        return found

    (letter,) = await eventually(letters)
    assert letter["original"] == {"data": "{"}
    retried = await limited.http.post(f"/v1/dead/{letter['id']}/retry")
    assert (retried.status_code, retried.json()["result"]) == (202, "resent")
    assert (await limited.http.post(f"/v1/dead/{letter['id']}/retry")).status_code == 404


async def test_usage_counts_pictures_calls_and_cost_by_day_route_and_tenant(
    redis: Redis, redis_server: RedisServer
) -> None:
    async def decide(item: Claimed, job: Job) -> Outcome | None:
        if job.prompt == "bad":
            return refused()
        return Succeeded({**made(item).result, "cost": {"amount": "0.015", "currency": "USD"}})

    async with open_door(redis, redis_server.url, decide=decide) as door:
        for ident, prompt, tenant in (("a", "x", "shop"), ("b", "x", "shop"), ("c", "bad", "slides")):
            await door.http.post("/v1/jobs", json={"id": ident, "prompt": prompt, "tenant": tenant})

        async def all_ended() -> bool:
            views = await door.gateway.records.recent(5)
            return len(views) == 3 and all(view.ended for view in views)

        await eventually(all_ended)
        (row,) = (await door.http.get("/v1/usage")).json()["usage"]
        assert (row["route"], row["tenant"], row["pictures"]) == ("default", "shop", 2)
        assert row["cost"] == {"USD": "0.03"}
        assert (await door.http.get("/v1/usage?tenant=slides")).json()["usage"] == []
        assert (await door.http.get("/v1/usage?days=0")).json()["field"] == "days"


@pytest.mark.parametrize("name", ["job", "batch", "event"])
async def test_schemas_are_those_of_the_contract(limited: Door, name: str) -> None:
    assert (await limited.http.get(f"/v1/schema/{name}")).json() == schema(name)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "1e3"])
async def test_a_limit_that_is_no_number_is_named(limited: Door, limit: str) -> None:
    answer = await limited.http.get("/v1/dead", params={"limit": limit})
    assert (answer.status_code, answer.json()["field"]) == (400, "limit")
