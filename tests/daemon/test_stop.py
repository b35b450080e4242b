"""A replica that is stopped while the reply to a claim is on its way: its item is settled, and paid once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from daemon.accounts.routes import Route, Routes
from daemon.broker import parts
from daemon.queue.steps import _SCRIPTS
from daemon.replica import Replica
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from limiter import Limiter
from limiter.quota.quota import parse_quota
from pixmill.records.keys import CACHED, LANES
from providers.base import Generated, Request, Submitted
from tests.daemon.harness import NO_WEBHOOKS, Installation, eventually
from tests.daemon.worker.test_executor import generated
from tests.servers import RedisServer

QUOTA = {"images": "100/min", "in_flight": 4}


class SlowReplies:
    """Holds back the reply of a script that hands out item `a`, until `may_come` is set."""

    def __init__(self, client: Any, script: str) -> None:
        self.came = asyncio.Event()
        self.may_come = asyncio.Event()
        self._script = _SCRIPTS[script]
        self._send = client.execute_command
        client.execute_command = self._execute

    async def _execute(self, *command: Any, **options: Any) -> Any:
        reply = await self._send(*command, **options)
        if {self._script.sha, self._script.source} & {*command} and "b'default//a'" in str(reply):
            self.came.set()
            await self.may_come.wait()
        return reply


class House:
    """One replica with two routes to one account. Its store outlives it."""

    def __init__(self, redis: Redis, url: str) -> None:
        self.installation = Installation(redis, worker="w0")
        self.provider = self.installation.provider
        self.provider.answer = self._answer
        self.quota = parse_quota("q", QUOTA)
        self.limiter = Limiter(redis, "pixmill")
        settings = Settings.model_validate(
            {"metrics": {"listen": "127.0.0.1:0"}, "quotas": {"q": QUOTA}, "worker": {"lease": "1s"}}
        )
        routes = [Route(name, self.provider, "model-1", (self.quota,)) for name in ("default", "other")]
        self.replica = Replica(settings, url, Routes(routes), ResultStore.open("memory://"), NO_WEBHOOKS)

    async def _answer(self, request: Request) -> Submitted | Generated:
        assert self.provider.hooks.before_send is not None
        await self.provider.hooks.before_send(None)
        return generated()

    async def succeeded(self, ident: str) -> None:
        async def settled() -> bool:
            return (await self.installation.record(f"default//{ident}"))["state"] == "succeeded"

        await eventually(settled)

    async def stop_during(self, slow: SlowReplies, part: str) -> None:
        """Stop the replica while it waits for the slow reply, and let that come after further cancellations."""
        await asyncio.wait_for(slow.came.wait(), 10)
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == part]
        with structlog.testing.capture_logs() as logs:
            stopping = asyncio.create_task(self.replica.stop())

            async def cancelled_again() -> bool:
                return task.done() or task.cancelling() >= 3

            await eventually(cancelled_again)
            assert [entry["event"] for entry in logs] == [], "the drain waits for the claim"
            slow.may_come.set()
            await asyncio.wait_for(stopping, 20)

    async def claimed(self) -> int:
        """How many entries are claimed by anybody."""
        keys, redis = self.installation.keys, self.installation.redis
        streams = [keys.stream(route, queue) for route in ("default", "other") for queue in (*LANES, CACHED)]
        groups = [await redis.xpending(stream, "workers") for stream in streams if await redis.exists(stream)]
        return sum(group["pending"] for group in groups)


@pytest.fixture
async def house(
    redis: Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    monkeypatch.setattr(parts, "CANCEL_AGAIN_S", 0.01)
    house = House(redis, redis_server.url)
    yield house
    await house.replica.stop()


@pytest.mark.parametrize(
    ("script", "part", "state", "calls"),
    [
        ("claim", "dispatcher default", "succeeded", 1),
        ("claim", "copies", "succeeded", 1),
        ("reclaim", "reclaimer", "queued", 0),
    ],
)
async def test_an_item_whose_claim_is_slow_at_a_stop_is_settled_and_paid_once(
    house: House, script: str, part: str, state: str, calls: int
) -> None:
    installation, replica = house.installation, house.replica
    job = {"id": "a", "prompt": "x", "cache": "use"}
    slow = SlowReplies(replica._client, script)
    if part == "reclaimer":
        await installation.submit(job)
        assert len(await installation.claim()) == 1, "by a replica that falls silent"
    await replica.start()
    if part == "copies":
        await installation.submit({**job, "id": "first"})
        await house.succeeded("first")
    if part != "reclaimer":
        await installation.submit(job)
    await house.stop_during(slow, part)
    assert (await installation.record("default//a"))["state"] == state
    assert len(house.provider.requests) == calls
    assert await house.claimed() == 0
    assert replica.left == 0
    (books,) = await house.limiter.snapshot([house.quota])
    assert books.in_flight == 0
    assert {unit.unit: unit.capacity - unit.available for unit in books.units} == {
        "images": calls,
        "in_flight": 0,
    }


@pytest.mark.parametrize(("proxy", "outside"), [("all", True), ("calls", False)])
async def test_a_replica_sends_results_by_the_proxy_unless_it_is_for_calls(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, proxy: str, outside: bool
) -> None:
    chosen: list[bool] = []
    monkeypatch.setattr("daemon.replica.leave_by_proxy", chosen.append)
    settings = Settings.model_validate({"network": {"proxy": proxy}})
    Replica(settings, redis_server.url, Routes([]), ResultStore.open("memory://"), NO_WEBHOOKS)
    assert chosen == [outside]
