"""Redis restarts, forgets, refuses or cannot be reached while work goes on: nothing lost, nothing bought twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ResponseError

from daemon.replica import ADOPTED_IN_S
from pixmill.client import Client
from tests.daemon.harness import eventually
from tests.servers import RedisServer
from tests.topologies.rig import FIELDS, LEASE_S, PATIENCE_S, SLOW, Installed, installed

ITEMS = 16
ROUND = 64  # entries that an intake reads at a time

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def admin(durable: RedisServer) -> AsyncIterator[Any]:
    client = Redis.from_url(durable.url, retry=Retry(NoBackoff(), 0))
    yield client
    await client.aclose()


async def _all_made_once(made: Installed, batch: str, items: int = ITEMS) -> None:
    counts = await made.ended(batch)
    assert counts["succeeded"] == counts["total"] == items
    assert sorted(await made.events("job.succeeded")) == sorted(f"i{k}" for k in range(items))
    assert made.calls() == {f"product {batch} {k}": 1 for k in range(items)}
    await made.nothing_held()


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
        # Added while there is no group or right after, so a group that begins at the end would miss it.
        await made.send("b2", 2)
        assert (await made.ended("b2"))["succeeded"] == 2
        counts = await made.ended("b1")
        assert counts["succeeded"] == ITEMS
        assert set(made.calls().values()) == {1}
        await made.nothing_held()


async def test_a_full_memory_stops_the_intake_and_readiness_says_why(
    durable: RedisServer, admin: Any, tmp_path: Path
) -> None:
    async with Client(durable.url) as producer:
        for number in range(2 * ROUND):
            await producer.submit({"id": f"j{number}", "prompt": f"product single {number}", **FIELDS})
    await admin.config_set("maxmemory", 1)
    async with installed(durable.url, tmp_path, quota={"in_flight": 64}) as made:
        await made.unready("no memory left")
        keys = made.client.keys
        await admin.config_set("maxmemory", 0)  # for the group, which cannot be made without memory either
        with suppress(ResponseError):  # the replica was faster
            await admin.xgroup_create(keys.jobs, "intake", id="0", mkstream=True)
        await admin.config_set("maxmemory", 1)

        async def read() -> bool:
            return bool((await admin.xpending(keys.jobs, "intake"))["pending"])

        await eventually(read, PATIENCE_S)
        assert (await admin.xpending(keys.jobs, "intake"))["pending"] <= ROUND, (
            "it reads no more than it holds"
        )
        assert await admin.xlen(keys.jobs) == 2 * ROUND
        assert made.calls() == {}
        await admin.config_set("maxmemory", 0)

        async def taken() -> bool:
            return not await admin.xlen(keys.jobs)

        await eventually(taken, PATIENCE_S)
        await made.ready()

        async def made_all() -> bool:
            return len(await made.events("job.succeeded")) == 2 * ROUND

        await eventually(made_all, PATIENCE_S)
        assert set(made.calls().values()) == {1}
        assert await made.events("job.duplicate") == []


async def test_items_that_run_while_the_memory_is_full_are_settled_after_it(
    durable: RedisServer, admin: Any, tmp_path: Path
) -> None:
    """Receipts and settles wait; no new call begins."""
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
        # The route of the tasks is left out: its dispatcher may hold a permit that it is about to give back.
        assert (await made.places())["sync"] == 0, "no call is claimed that could not note its intent"
        await asyncio.sleep(2 * LEASE_S + ADOPTED_IN_S + 1)  # longer than any lease that nobody renews
        assert (await made.places())["sync"] == 0
        assert [(await made.counts(batch))["succeeded"] for batch in ("b1", "b2")] == done
        assert made.calls() == calls
        assert made.replicas[0].metrics.reclaimed._value.get() == 0
        await admin.config_set("maxmemory", 0)
        for batch in ("b1", "b2"):
            assert (await made.ended(batch))["succeeded"] == ITEMS
        assert set(made.calls().values()) == {1}
        await made.ready()
        await made.nothing_held()
