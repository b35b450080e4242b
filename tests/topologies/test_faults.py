"""Redis restarts, forgets, refuses or cannot be reached while work goes on: nothing lost, nothing bought twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError

from daemon.client import Client
from providers.simulator.settings import SimulatorSettings
from tests.daemon.harness import eventually
from tests.servers import RedisServer
from tests.topologies.proxy import Wire, wire_to
from tests.topologies.rig import FIELDS, LEASE_S, PATIENCE_S, Installed, installed

SLOW = SimulatorSettings(plain=True, latency_s=(0.3, 0.6))
ITEMS = 16
ROUND = 64  # entries that an intake reads at a time

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def durable() -> Iterator[RedisServer]:
    """A server of the test's own, with an AOF that is written with every command."""
    server = RedisServer(persistent=True, options=("--appendfsync", "always"))
    yield server
    server.close()


@pytest.fixture
async def admin(durable: RedisServer) -> AsyncIterator[Any]:
    client = Redis.from_url(durable.url, retry=Retry(NoBackoff(), 0))
    yield client
    await client.aclose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost reply is noticed in a second instead of ten."""
    monkeypatch.setattr("daemon.connections.COMMAND_TIMEOUT_S", 1.0)
    monkeypatch.setattr("daemon.connections.BLOCKING_TIMEOUT_S", 3.0)
    monkeypatch.setattr("daemon.bell.POLL_S", 0.5)


async def _all_made_once(made: Installed, batch: str, items: int = ITEMS) -> None:
    counts = await made.ended(batch)
    assert counts["succeeded"] == counts["total"] == items
    assert sorted(await made.events("job.succeeded")) == sorted(f"i{k}" for k in range(items))
    assert made.calls() == {f"product {batch} {k}": 1 for k in range(items)}
    await _nothing_held(made)


async def _nothing_held(made: Installed) -> None:
    """No entry is pending, and no place in flight is taken: those that a lost reply left behind have ended."""
    redis: Any = made.client.redis
    keys = made.client.keys

    async def free() -> bool:
        # Of the jobs stream and the two routes; a group that was never made has nothing pending.
        for stream, group in [
            (keys.jobs, "intake"),
            (keys.stream("default", "normal"), "workers"),
            (keys.stream("tasks", "normal"), "workers"),
        ]:
            if await redis.exists(stream) and (await redis.xpending(stream, group))["pending"]:
                return False
        seconds, micros = await redis.time()
        now_us = seconds * 1_000_000 + micros
        return not any(
            [
                await redis.zcount(f"pixmill:limiter:{quota}:leases", now_us, "+inf")
                for quota in ("sync", "task")
            ]
        )

    await eventually(free, PATIENCE_S)


async def test_a_restart_that_reads_the_aof_again_loses_nothing(durable: RedisServer, tmp_path: Path) -> None:
    async with installed(durable.url, tmp_path, replicas=2, simulator=SLOW, quota={"in_flight": 4}) as made:
        await made.send("b1", ITEMS)
        await made.reached("b1", succeeded=3)
        for _ in range(2):
            await asyncio.to_thread(durable.kill)
            await made.unready("does not answer")
            await asyncio.to_thread(durable.start)
            await made.ready()
        await _all_made_once(made, "b1")


async def test_scripts_that_are_flushed_all_the_time_are_sent_again(
    durable: RedisServer, admin: Any, tmp_path: Path
) -> None:
    async with installed(durable.url, tmp_path, simulator=SLOW, quota={"in_flight": 8}) as made:
        await made.send("b1", ITEMS)

        async def flushed() -> bool:
            await admin.script_flush()
            return (await made.counts("b1")).get("succeeded") == ITEMS

        await eventually(flushed, PATIENCE_S)
        await _all_made_once(made, "b1")
        await made.ready()


async def test_groups_that_are_deleted_under_us_are_made_again_from_the_beginning(
    durable: RedisServer, admin: Any, tmp_path: Path
) -> None:
    async with installed(durable.url, tmp_path, simulator=SLOW, quota={"in_flight": 4}) as made:
        keys = made.client.keys
        await made.send("b1", ITEMS)
        await made.reached("b1", succeeded=3)
        assert await admin.xgroup_destroy(keys.stream("default", "normal"), "workers")
        assert await admin.xgroup_destroy(keys.jobs, "intake")
        # Added while there is no group, or right after: a group that began at the end would never see it.
        await made.send("b2", 2)
        assert (await made.ended("b2"))["succeeded"] == 2
        counts = await made.ended("b1")
        assert counts["succeeded"] == ITEMS
        assert set(made.calls().values()) == {1}
        await _nothing_held(made)


async def test_with_full_memory_nothing_is_taken_in_or_acknowledged_and_readiness_says_why(
    durable: RedisServer, admin: Any, tmp_path: Path
) -> None:
    async with Client(durable.url) as producer:
        for number in range(3 * ROUND):
            await producer.submit({"id": f"j{number}", "prompt": f"product single {number}", **FIELDS})
    await admin.config_set("maxmemory", 1)
    async with installed(durable.url, tmp_path, quota={"in_flight": 64}) as made:
        await made.unready("no memory left")
        keys = made.client.keys
        await admin.config_set("maxmemory", 0)  # for the group, which cannot be made without memory either
        await admin.xgroup_create(keys.jobs, "intake", id="0", mkstream=True)
        await admin.config_set("maxmemory", 1)

        async def read() -> bool:
            return bool((await admin.xpending(keys.jobs, "intake"))["pending"])

        await eventually(read, PATIENCE_S)
        assert (await admin.xpending(keys.jobs, "intake"))["pending"] <= ROUND, (
            "it reads no more than it holds"
        )
        assert await admin.xlen(keys.jobs) == 3 * ROUND
        assert made.calls() == {}
        await admin.config_set("maxmemory", 0)

        async def taken() -> bool:
            return not await admin.xlen(keys.jobs)

        await eventually(taken, PATIENCE_S)
        await made.ready()

        async def made_all() -> bool:
            return len(await made.events("job.succeeded")) == 3 * ROUND

        await eventually(made_all, PATIENCE_S)
        assert set(made.calls().values()) == {1}
        assert await made.events("job.duplicate") == []


async def test_what_runs_while_the_memory_is_full_keeps_its_receipts_and_is_settled_after_it(
    durable: RedisServer, admin: Any, tmp_path: Path
) -> None:
    """Its notes and its settle wait; a call that has not begun does not begin."""
    async with installed(durable.url, tmp_path, simulator=SLOW, quota={"in_flight": 4}) as made:
        await made.send("b1", ITEMS)
        await made.send("b2", ITEMS, route="tasks")
        await made.reached("b1", succeeded=2)
        await admin.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            await made.send("b3", 1)
        await made.unready("no memory left")

        async def stands_still() -> bool:
            before = sum(made.calls().values())
            await asyncio.sleep(1.0)  # longer than any call here takes
            return sum(made.calls().values()) == before

        await eventually(stands_still, PATIENCE_S)
        done = [(await made.counts(batch))["succeeded"] for batch in ("b1", "b2")]
        calls = made.calls()
        await asyncio.sleep(3 * LEASE_S)  # who is alive is not taken for dead meanwhile
        assert [(await made.counts(batch))["succeeded"] for batch in ("b1", "b2")] == done
        assert made.calls() == calls
        assert made.replicas[0].metrics.reclaimed._value.get() == 0
        await admin.config_set("maxmemory", 0)
        for batch in ("b1", "b2"):
            assert (await made.ended(batch))["succeeded"] == ITEMS
        assert set(made.calls().values()) == {1}
        await made.ready()
        await _nothing_held(made)


@pytest.mark.parametrize("dropped", ["requests", "replies", "both", "connections"])
@pytest.mark.usefixtures("impatient")
async def test_a_replica_that_is_cut_off_for_a_while_does_nothing_twice(
    durable: RedisServer, tmp_path: Path, dropped: str
) -> None:
    async with (
        wire_to(durable.port) as wire,
        installed(wire.url, tmp_path, simulator=SLOW, quota={"in_flight": 4}, client_url=durable.url) as made,
    ):
        await made.send("b1", ITEMS)
        await made.reached("b1", succeeded=3)
        _disturb(wire, dropped)
        await made.unready("does not answer")
        await made.send("b2", 2)  # others can still send
        wire.heal()
        await made.ready()
        assert (await made.ended("b2"))["succeeded"] == 2
        counts = await made.ended("b1")
        assert counts["succeeded"] == ITEMS
        assert set(made.calls().values()) == {1}
        done = await made.events("job.succeeded")
        assert len(done) == ITEMS + 2
        await _nothing_held(made)


def _disturb(wire: Wire, dropped: str) -> None:
    if dropped == "connections":
        wire.cut()
    if dropped in ("requests", "both"):
        wire.drop_requests()
    if dropped in ("replies", "both"):
        wire.drop_replies()


@pytest.mark.usefixtures("impatient")
async def test_tasks_of_a_replica_that_is_cut_off_are_finished_by_another_and_bought_once(
    durable: RedisServer, tmp_path: Path
) -> None:
    """It goes on polling them without knowing, and comes back when they have been settled."""
    long = SimulatorSettings(plain=True, latency_s=(5.0, 6.0))
    async with (
        wire_to(durable.port) as wire,
        installed(wire.url, tmp_path, simulator=long, client_url=durable.url) as made,
    ):
        await made.send("long", 6, route="tasks")

        async def submitted() -> bool:
            return len(await made.events("job.submitted")) == 6

        await eventually(submitted, PATIENCE_S)
        async with made.another(durable.url) as other:
            wire.drop_replies()
            counts = await made.ended("long")
            assert counts["succeeded"] == 6
            assert other.metrics.reclaimed._value.get() == 6
            wire.heal()
            await made.ready()
            assert len(await made.events("job.succeeded")) == 6
            assert set(made.calls().values()) == {1}
            assert made.simulator.ledger.billed() == 6
            await _nothing_held(made)


@pytest.mark.usefixtures("impatient")
async def test_replicas_do_not_come_back_together(durable: RedisServer, tmp_path: Path) -> None:
    """Every part of a replica waits by chance, and longer each time: a server that comes up is not stormed."""
    async with (
        wire_to(durable.port) as wire,
        installed(wire.url, tmp_path, replicas=2, client_url=durable.url) as made,
    ):
        await made.ready()
        wire.cut()
        await made.unready("does not answer")
        before = wire.connections
        await asyncio.sleep(3.0)  # the rate is what is asked about
        # 2 replicas of 12 parts each; with fixed pauses of 50 ms there would be over a thousand.
        assert wire.connections - before < 250
        wire.heal()
        await made.ready()
