"""Items that end while they wait are counted once in the whole fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.maintenance.eta import Estimator
from daemon.maintenance.scheduler import Scheduler
from daemon.queue.outcomes import Failed, Held, Succeeded
from daemon.telemetry.metrics import Metrics
from tests.daemon.harness import Installation, eventually


class Fleet:
    """The schedulers of two replicas, which count at a call of the test."""

    def __init__(self, redis: Redis) -> None:
        self.installation = Installation(redis)
        self.metrics = [Metrics(), Metrics()]
        keys, queue = self.installation.keys, self.installation.queue
        self.schedulers = [
            Scheduler(redis, queue, Estimator(redis, keys, {}, 1, metrics), metrics)
            for metrics in self.metrics
        ]

    async def counted(self, outcome: str, route: str = "default") -> int:
        """The count by both replicas together, after two looks each."""
        for scheduler in (*self.schedulers, *self.schedulers):
            await scheduler.count_ended()
        labels = {"route": route, "outcome": outcome}
        values = [
            metrics.registry.get_sample_value("pixmill_jobs_finished_total", labels)
            for metrics in self.metrics
        ]
        return int(sum(value or 0 for value in values))


@pytest.fixture
def fleet(redis: Redis) -> Fleet:
    return Fleet(redis)


async def cancel_a_batch(fleet: Fleet) -> None:
    await fleet.installation.batch("b1", 3)
    await fleet.installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")


async def cancel_one_by_one(fleet: Fleet) -> None:
    names = ("a", "b", "c")
    await fleet.installation.submit(*({"id": name, "prompt": "x"} for name in names))
    for name in names:
        await fleet.installation.orders.cancel("item", f"default//{name}", ["queued"])


async def cancel_what_comes_late(fleet: Fleet) -> None:
    part = {"id": "b1", "parts": 2, "defaults": {"prompt": "x"}}
    await fleet.installation.submit({**part, "part": 1, "items": [{"id": "i0"}]}, type="pixmill.batch.v1")
    await fleet.installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    items = [{"id": "i1"}, {"id": "i2"}]
    await fleet.installation.submit({**part, "part": 2, "items": items}, type="pixmill.batch.v1")


async def cancel_what_is_held(fleet: Fleet) -> None:
    await fleet.installation.batch("b1", 3)
    for item in await fleet.installation.claim(3):
        await fleet.installation.queue.settle(item, Held({"kind": "ambiguous_submit", "message": "Lost."}))
    await fleet.installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")


@pytest.mark.parametrize(
    "cancel", [cancel_a_batch, cancel_one_by_one, cancel_what_comes_late, cancel_what_is_held]
)
async def test_an_item_that_is_cancelled_while_it_waits_is_counted_once(
    fleet: Fleet, cancel: Callable[[Fleet], Awaitable[None]]
) -> None:
    await cancel(fleet)
    assert await fleet.counted("cancelled") == 3


@pytest.mark.parametrize("by_claim", [False, True], ids=["by its time", "by a claim that comes first"])
async def test_an_item_that_expires_while_it_waits_is_counted_once(fleet: Fleet, by_claim: bool) -> None:
    job = {"id": "a", "prompt": "x", "expires_at": "2099-01-01T00:00:00Z"}
    await fleet.installation.submit(job)
    await fleet.installation.redis.hset(fleet.installation.keys.item("default//a"), "expires_us", "1")
    await fleet.installation.redis.zadd(fleet.installation.keys.expiring, {"default//a": 1})
    if by_claim:
        assert await fleet.installation.claim() == []
    await fleet.installation.queue.due()
    assert (await fleet.installation.record("default//a"))["state"] == "expired"
    assert await fleet.counted("expired") == 1


async def test_the_end_of_a_run_is_left_to_the_replica_that_ran_it(fleet: Fleet) -> None:
    await fleet.installation.batch("b1", 2)
    first, second = await fleet.installation.claim(2)
    await fleet.installation.queue.settle(first, Succeeded({"images": []}))
    await fleet.installation.queue.settle(second, Failed({"kind": "provider_fault", "message": "It broke."}))
    assert await fleet.counted("succeeded") == await fleet.counted("failed") == 0


async def test_a_route_that_is_not_configured_here_is_counted_too(redis: Redis) -> None:
    fleet = Fleet(redis)
    elsewhere = Installation(redis, routes=("slides",))
    await elsewhere.submit({"id": "a", "prompt": "x", "route": "slides"})
    await elsewhere.submit({"job": "a"}, type="pixmill.cancel.v1")
    assert await fleet.counted("cancelled", "slides") == 1


async def test_the_running_scheduler_counts_by_itself(fleet: Fleet) -> None:
    await cancel_a_batch(fleet)
    running = asyncio.create_task(fleet.schedulers[0].run())

    async def counted() -> bool:
        labels = {"route": "default", "outcome": "cancelled"}
        return fleet.metrics[0].registry.get_sample_value("pixmill_jobs_finished_total", labels) == 3

    await eventually(counted)
    running.cancel()
    await asyncio.wait([running])


async def ids(redis: Redis, stream: str) -> dict[bytes, bytes]:
    """Each event's data by its id."""
    rows: Any = await redis.xrange(stream)
    return {entry: fields[b"data"] for entry, fields in rows or ()}


async def test_an_event_has_one_id_in_both_streams(fleet: Fleet, redis: Redis) -> None:
    keys = fleet.installation.keys
    # Its ids are ahead of the clock, so no other stream would have them by itself.
    await redis.xadd(keys.events, {"type": "quota.cooldown", "data": "{}"}, id="8000000000000-0")
    await fleet.installation.batch("b1", 3)
    await fleet.installation.submit({"id": "single", "prompt": "x"})
    await fleet.schedulers[0]._progress()
    everybodys, own = await ids(redis, keys.events), await ids(redis, keys.batch_events("b1"))
    assert "batch.progress" in await fleet.installation.kinds()
    assert own == {entry: data for entry, data in everybodys.items() if b'"batch":"b1"' in data}


async def test_a_batchs_stream_that_is_ahead_of_the_clock_still_has_every_event(
    fleet: Fleet, redis: Redis
) -> None:
    stream = fleet.installation.keys.batch_events("b1")
    await redis.xadd(stream, {"type": "batch.progress", "data": "{}"}, id="9000000000000-0")
    await fleet.installation.batch("b1", 1)
    await fleet.schedulers[0]._progress()
    kinds = [kind for kind, _ in await fleet.installation.events(stream)]
    assert kinds == ["batch.progress", "batch.accepted", "job.queued", "batch.progress"]
