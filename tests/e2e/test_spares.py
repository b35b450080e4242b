"""Several accounts serve one route: equals share its items, and spares take them while it is down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.queue.messages import Serving
from daemon.replica import Replica
from daemon.service import worker
from daemon.settings import Settings
from limiter import Limiter
from providers.simulator.server import Simulator
from providers.simulator.settings import Rate, SimulatorSettings
from tests.daemon.harness import Installation, eventually
from tests.servers import RedisServer

A, B = "sk-account-a", "sk-account-b"
MINUTE = {
    "images": "20/min",
    "in_flight": 2,
}  # a late call would wait half a minute for the room that it gave back
Routes = Mapping[str, Mapping[str, object]]
IN_FLIGHT = {"in_flight": 3}


class Stage:
    """A replica with two accounts at one simulated provider, and its records."""

    def __init__(self, redis: Redis, simulator: Simulator, keys: list[str]) -> None:
        self.redis: Any = redis
        self.simulator = simulator
        self.keys = keys
        self.replica: Replica

    async def add(self, kind: str = "job", **data: object) -> None:
        await self.redis.xadd("pixmill:jobs", {"type": f"pixmill.{kind}.v1", "data": orjson.dumps(data)})

    async def batch(self, ident: str, items: int, **defaults: object) -> None:
        named = [{"id": f"i{k}", "prompt": f"product {k}"} for k in range(items)]
        await self.add("batch", id=ident, items=named, defaults={**defaults, "output": {"thumbnail": False}})

    async def record(self, uid: str) -> dict[str, str]:
        fields = await self.redis.hgetall(f"pixmill:item:default/{uid}")
        return {name.decode(): value.decode() for name, value in fields.items()}

    async def ended(self, batch: str) -> dict[str, int]:
        """The counts of a batch once it has ended."""

        async def look() -> dict[str, int]:
            fields = await self.redis.hgetall(f"pixmill:batch:default/{batch}")
            counts = {name.decode(): int(text) for name, text in fields.items() if text.isdigit()}
            return counts if fields.get(b"state", b"running") != b"running" else {}

        return dict(await eventually(look, 45))

    async def in_state(self, uid: str, state: str) -> dict[str, str]:
        async def look() -> dict[str, str]:
            record = await self.record(uid)
            return record if record.get("state") == state else {}

        return dict(await eventually(look))

    async def events(self, kind: str) -> list[dict[str, Any]]:
        rows = await self.redis.xrange("pixmill:events")
        return [orjson.loads(row[b"data"]) for _, row in rows if row[b"type"].decode() == kind]

    def made_by(self) -> dict[str, int]:
        """Admitted calls by account."""
        from providers.simulator.ledger import digest

        names = {digest(A.encode()): "a", digest(B.encode()): "b"}
        made = {"a": 0, "b": 0}
        for call in self.simulator.ledger.calls:
            made[names[call.key]] += call.admitted
        return made


@asynccontextmanager
async def stage(
    redis: Redis,
    server: RedisServer,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    routes: Routes,
    quota: Mapping[str, object] = IN_FLIGHT,
    accounts: Mapping[str, Mapping[str, object]] = {},
    **simulated: Any,
) -> AsyncIterator[Stage]:
    monkeypatch.setenv("KEY_A", A)
    monkeypatch.setenv("KEY_B", B)
    keys = [A, B]
    options = {"latency_s": (0.02, 0.05), "plain": True, "api_keys": keys, **simulated}
    async with Simulator(SimulatorSettings(**options)) as simulator:
        account = {"provider": "openai", "base_url": simulator.base_url}
        named = {
            "a": {"credential": "a", "model": "gpt-image-1", "quotas": ["a"]},
            "b": {"credential": "b", "model": "gpt-image-1", "quotas": ["b"]},
        }
        settings = Settings.model_validate(
            {
                "metrics": {"listen": "127.0.0.1:0"},
                "redis": {"url": server.url},
                "worker": {"lease": "1s"},
                "storage": {"url": directory.as_uri()},
                "credentials": {
                    "a": {**account, "api_key_env": "KEY_A", **accounts.get("a", {})},
                    "b": {**account, "api_key_env": "KEY_B"},
                },
                "quotas": {"a": quota, "b": quota},
                "routes": {
                    name: {**named.get(name, {}), **routes.get(name, {})} for name in {**named, **routes}
                },
            }
        )
        on = Stage(redis, simulator, keys)
        async with worker(settings, server.url) as running:
            on.replica = running.replica
            yield on


async def test_two_accounts_make_in_one_window_what_both_quotas_allow(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    either = {"either": {"any": ["a", "b"]}}
    async with stage(redis, redis_server, tmp_path, monkeypatch, either, MINUTE, images=Rate(20, 60.0)) as on:
        await on.batch("b1", 40, route="either")
        counts = await on.ended("b1")
        assert counts["succeeded"] == 40
        assert on.made_by() == {"a": 20, "b": 20}
        assert on.simulator.ledger.statuses() == {200: 40}


async def test_an_account_that_is_revoked_hands_the_rest_over_and_nothing_is_made_twice(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    either = {"either": {"any": ["a", "b"]}}
    async with stage(redis, redis_server, tmp_path, monkeypatch, either) as on:
        await on.batch("b1", 30, route="either")

        async def is_middle() -> bool:
            return on.made_by()["a"] >= 5

        await eventually(is_middle)
        on.keys.remove(A)
        counts = await on.ended("b1")
        assert counts["succeeded"] == 30
        assert set(on.simulator.ledger.calls_by_prompt().values()) == {1}
        assert on.made_by()["a"] < 15 < on.made_by()["b"]
        assert [event["quota"] for event in await on.events("quota.paused")] == ["a"]
        by_a = [event for event in await on.events("job.succeeded") if event["route"] == "a"]
        assert len(by_a) == on.made_by()["a"]
        assert all(event["instead_of"] == "either" for event in await on.events("job.succeeded"))


SPARE = {"a": {"fallback": ["b"]}}


async def test_a_spare_takes_over_while_a_key_is_refused_and_hands_back_when_a_person_resumes(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(redis, redis_server, tmp_path, monkeypatch, SPARE) as on:
        on.keys.remove(A)
        await on.add(id="moves", route="a", prompt="a cup")
        await on.add(id="stays", route="a", prompt="a jug", fallback=False)
        record = await on.in_state("/moves", "succeeded")
        result = orjson.loads(record["result"])
        assert (result["route"], result["instead_of"]) == ("b", "a")
        (event,) = await on.events("job.succeeded")
        assert (event["route"], event["instead_of"]) == ("b", "a")
        labels = {"route": "b", "instead_of": "a"}
        assert on.replica.metrics.registry.get_sample_value("pixmill_jobs_rerouted_total", labels) == 1

        async def is_aside() -> bool:
            return bool(await redis.exists("pixmill:aside:a:a"))

        await eventually(is_aside)
        assert (await on.record("/stays"))["state"] in ("queued", "throttled")
        on.keys.append(A)
        await Limiter(redis, "pixmill").resume("a")
        result = orjson.loads((await on.in_state("/stays", "succeeded"))["result"])
        assert "route" not in result
        await on.add(id="later", route="a", prompt="a pot")
        await on.in_state("/later", "succeeded")
        assert on.made_by() == {"a": 2, "b": 1}


async def test_a_spare_takes_over_while_the_provider_is_out_of_reach(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(
        redis,
        redis_server,
        tmp_path,
        monkeypatch,
        SPARE,
        accounts={"a": {"base_url": "http://127.0.0.1:9/v1"}},
    ) as on:
        await on.batch("b1", 6, route="a")
        assert (await on.ended("b1"))["succeeded"] == 6
        assert on.made_by() == {"a": 0, "b": 6}
        assert {event["instead_of"] for event in await on.events("job.succeeded")} == {"a"}


async def test_moderation_and_invalid_input_do_not_go_over(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(redis, redis_server, tmp_path, monkeypatch, SPARE) as on:
        await on.add(id="refused", route="a", prompt="forbidden")
        record = await on.in_state("/refused", "failed")
        assert orjson.loads(record["error"])["kind"] == "moderation_input"
        assert on.made_by()["b"] == 0
        assert record["via"] == "a"


async def test_an_item_that_the_spare_cannot_make_waits_for_its_own_route(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare: Routes = {"a": {"fallback": ["b"]}, "b": {"model": "dall-e-3"}}
    async with stage(redis, redis_server, tmp_path, monkeypatch, spare) as on:
        on.keys.remove(A)
        await on.add(id="small", route="a", prompt="a cup", params={"background": "transparent"})

        async def is_unfit() -> bool:
            return "unfit:b" in await on.record("/small")

        await eventually(is_unfit)
        on.keys.append(A)
        await Limiter(redis, "pixmill").resume("a")
        assert "route" not in orjson.loads((await on.in_state("/small", "succeeded"))["result"])
        assert on.made_by() == {"a": 1, "b": 0}


async def test_a_replica_without_shared_routes_queues_what_an_earlier_configuration_set_aside(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation(redis, routes=("a", "b"))
    await here.submit({"id": "stays", "prompt": "a jug", "route": "a", "fallback": False})
    spare = Serving("b", ("a", "b"), ("a",), spare=True, differs=False)
    assert (await here.queue.claim("a", 1, serving=spare)).items == []
    async with stage(redis, redis_server, tmp_path, monkeypatch, {}) as on:
        await on.in_state("/stays", "succeeded")
        assert on.made_by() == {"a": 1, "b": 0}
