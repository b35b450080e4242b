"""A key of another type, which is somebody's or a mistake, spoils no counts and stops no other work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from daemon.maintenance.eta import Estimator
from daemon.maintenance.janitor import Janitor
from daemon.maintenance.scheduler import Scheduler
from daemon.queue.outcomes import Failed, Succeeded, Throttled
from daemon.queue.pauses import pause, resume
from pixmill.broker.streams import Entry, read_new
from pixmill.records.views import group_view
from tests.daemon.harness import Installation

DONE = Succeeded({"images": []})


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


async def depth(installation: Installation) -> dict[str, int]:
    fields = await installation.redis.hgetall(installation.keys.depth)
    return {name.decode(): int(count) for name, count in fields.items() if int(count)}


async def end_all(installation: Installation) -> None:
    while items := await installation.claim(20):
        for item in items:
            assert await installation.queue.settle(item, DONE) == "succeeded"


@pytest.mark.parametrize("from_the_start", [True, False])
async def test_a_batch_ends_though_its_stream_is_somebodys_key(
    installation: Installation, from_the_start: bool
) -> None:
    stream = installation.keys.batch_events("b1")
    if not from_the_start:
        await installation.batch("b1", 20)
        await installation.redis.delete(stream)
    await installation.redis.set(stream, "somebody's")
    if from_the_start:
        await installation.batch("b1", 20)
    await installation.batch("other", 7)
    await end_all(installation)
    group = await installation.group("default/b1")
    assert (group["state"], group["succeeded"], group["running"]) == ("completed", "20", "0")
    assert await depth(installation) == {}
    while await installation.queue.close_groups():
        pass
    assert await installation.redis.ttl(stream) == -1, "somebody's key is left alone"


async def test_the_record_of_a_batch_counts_the_events_that_its_stream_lacks(
    installation: Installation,
) -> None:
    await installation.batch("b1", 2)
    await installation.redis.rename(installation.keys.batch_events("b1"), "kept")
    await installation.redis.set(installation.keys.batch_events("b1"), "somebody's")
    await end_all(installation)
    view = group_view("default/b1", await installation.redis.hgetall(installation.keys.group("default/b1")))
    assert view is not None
    (warning,) = view.warnings
    assert warning.startswith("5 events of this batch are only in the stream of all events")


async def test_an_event_that_redis_refuses_for_another_reason_is_not_swallowed(
    installation: Installation,
) -> None:
    await installation.batch("b1", 1)
    (item,) = await installation.claim()
    stream = installation.keys.batch_events("b1")
    await installation.redis.delete(stream)
    await installation.redis.xadd(stream, {"type": "last"}, id=f"{2**64 - 1}-{2**64 - 1}")
    with pytest.raises(ResponseError, match="exhausted the last possible ID"):
        await installation.queue.settle(item, DONE)


async def test_a_retry_of_a_batch_leaves_somebodys_key_alone(installation: Installation) -> None:
    stream = installation.keys.batch_events("b1")
    await installation.batch("b1", 1)
    (item,) = await installation.claim()
    await installation.queue.settle(item, Failed({"kind": "refused", "message": "No.", "charged": "no"}))
    await installation.redis.set(stream, "somebody's", ex=1000)
    await installation.orders.retry("item", item.uid, ["failed"])
    assert (await installation.group("default/b1"))["state"] == "running"
    assert await installation.redis.ttl(stream) > 0


async def test_the_progress_of_others_goes_on_beside_a_stream_of_another_type(
    installation: Installation,
) -> None:
    await installation.redis.set(installation.keys.batch_events("b1"), "somebody's")
    await installation.batch("b1", 1)
    estimator = Estimator(installation.redis, installation.keys, {}, 4, installation.metrics)
    scheduler = Scheduler(installation.redis, installation.queue, estimator, installation.metrics)
    await scheduler._progress()
    assert "batch.progress" in await installation.kinds()


SHARED = (
    *("events", "dead", "outbox", "depth", "tenants", "ended", "active", "closing", "dirty", "installation"),
    *(
        "expiring",
        "delayed",
        "flights",
        "waiting:default",
        "ring:default:normal",
        "q:default:normal",
    ),
)


@pytest.mark.parametrize("name", SHARED)
async def test_a_script_that_meets_a_wrong_type_changes_nothing(
    installation: Installation, name: str
) -> None:
    await installation.batch("b1", 2)
    items = await installation.claim(2)
    key = f"pixmill:{name}"
    kept = "pixmill:kept"
    if await installation.redis.exists(key):
        await installation.redis.rename(key, kept)
    await installation.redis.lpush(key, "somebody's")
    with pytest.raises(ResponseError, match=key):
        await installation.queue.settle(items[0], DONE)
    assert (await installation.record("default/b1/i0"))["state"] == "running"
    assert (await installation.group("default/b1"))["running"] == "2"
    await installation.redis.delete(key)
    if await installation.redis.exists(kept):
        await installation.redis.rename(kept, key)
    for item in items:
        assert await installation.queue.settle(item, DONE) == "succeeded"
    assert await depth(installation) == {}
    assert (await installation.group("default/b1"))["state"] == "completed"


async def contents(installation: Installation) -> dict[bytes, object]:
    redis = installation.redis

    async def content(key: bytes) -> object:
        # The fields of a dumped hash have no fixed order.
        return await (redis.hgetall(key) if await redis.type(key) == b"hash" else redis.dump(key))

    return {key: await content(key) for key in await redis.keys()}


STEPS: dict[str, Callable[[Installation, list[Entry]], Awaitable[object]]] = {
    "accept": lambda it, entries: it.intake.take(entries),
    "claim": lambda it, _: it.queue.claim("default", 3),
    "cancel": lambda it, _: it.orders.cancel("group", "default/b1", ["queued", "running"]),
    "retry": lambda it, _: it.orders.retry("group", "default/b1", ["failed"]),
    "due": lambda it, _: it.queue.due(),
    "pause": lambda it, _: pause(it.redis, it.keys, "route", "default"),
    "resume": lambda it, _: resume(it.redis, it.keys, "batch", "default/b1"),
}
LESS_SHARED = (
    "index",
    "lanes:default",
    "ring:default:low",
    "ring:default:cached",
    "q:default:cached",
    "paused",
    "jobs",
)


@pytest.mark.parametrize("name", [*SHARED, *LESS_SHARED])
@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_at_a_wrong_type_has_written_nothing(
    installation: Installation, step: str, name: str
) -> None:
    await installation.batch("b1", 4, max_in_flight=2)
    await installation.submit({"id": "low", "prompt": "x", "priority": "low", "cache": "use"})
    failed, late, *_ = await installation.claim(3)
    await installation.queue.settle(failed, Failed({"kind": "refused", "message": "No.", "charged": "no"}))
    await installation.queue.settle(late, Throttled({"kind": "throttled", "message": "Wait."}, 3600))
    await pause(installation.redis, installation.keys, "batch", "default/b1")
    for due in ("delayed", "expiring"):
        await installation.redis.zadd(f"pixmill:{due}", {late.uid: 1})
    await installation.add({"id": "new", "prompt": "x", "cache": "use"})
    entries = await read_new(installation.redis, "intake", "w1", installation.keys.jobs, 64)
    await installation.redis.delete(f"pixmill:{name}")
    await installation.redis.lpush(f"pixmill:{name}", "somebody's")
    before = await contents(installation)
    try:
        await STEPS[step](installation, entries)
    except ResponseError:
        assert await contents(installation) == before


async def test_the_janitor_puts_wrong_counts_right(installation: Installation) -> None:
    await installation.batch("b1", 5)
    running, ended, *_ = await installation.claim(2)
    await installation.queue.settle(ended, DONE)
    await installation.submit({"id": "alone", "prompt": "x"}, {"id": "same", "prompt": "x", "cache": "use"})
    janitor = Janitor(installation.queue, ["default"], lease_s=15)
    before = await depth(installation)
    assert await janitor.recount() == 0, "right counts stay"
    await installation.redis.hincrby(installation.keys.depth, "default|normal|running", 7)
    await installation.redis.hincrby(installation.keys.depth, "default|normal|queued", -2)
    await installation.redis.hincrby(installation.keys.group("default/b1"), "running", 20)
    await installation.redis.hincrby(installation.keys.group("default/b1"), "open", 20)
    assert await janitor.recount() == 4
    assert await depth(installation) == before
    group = await installation.group("default/b1")
    assert [group[name] for name in ("queued", "running", "succeeded", "open")] == ["3", "1", "1", "4"]
    await installation.queue.settle(running, DONE)


async def test_no_step_of_a_recount_looks_at_more_than_its_budget(installation: Installation) -> None:
    groups = [f"b{k}" for k in range(6)]
    for name in (*groups, "large"):
        await installation.batch(name, 30 if name == "large" else 4)
        await installation.redis.hincrby(installation.keys.group(f"default/{name}"), "running", 7)
    steps, following = [], 0
    while following >= 0:
        wrong, following = await installation.queue.recount_groups(following, most=12)
        steps.append(wrong)
    assert steps == [2, 2, 2], "two groups of 1 + 4 records fit, and the large one never does"
    assert {(await installation.group(f"default/{name}"))["running"] for name in groups} == {"0"}
    assert (await installation.group("default/large"))["running"] == "7"


async def test_a_recount_loses_no_group_behind_one_that_it_ends(installation: Installation) -> None:
    for name in ("b1", "b2"):
        await installation.batch(name, 1)
    await installation.redis.hincrby(installation.keys.group("default/b1"), "open", 1)
    await installation.queue.settle((await installation.claim())[0], DONE)
    await installation.redis.hincrby(installation.keys.group("default/b2"), "open", 1)
    _, following = await installation.queue.recount_groups(0, most=2)
    assert (await installation.group("default/b1"))["state"] == "completed"
    assert await installation.queue.recount_groups(following, most=2) == (1, -1)


async def test_one_replica_of_the_fleet_recounts_at_a_time(installation: Installation) -> None:
    others = [installation.other(f"w{k}") for k in range(3)]
    assert [await queue.take_recount(60) for queue in others] == [True, False, False]


async def test_the_janitor_ends_a_batch_whose_members_have_all_ended(installation: Installation) -> None:
    await installation.batch("b1", 2)
    await installation.redis.hincrby(installation.keys.group("default/b1"), "open", 1)
    await end_all(installation)
    assert (await installation.group("default/b1"))["state"] == "running"
    await Janitor(installation.queue, ["default"], lease_s=15).recount()
    assert (await installation.group("default/b1"))["state"] == "completed"


async def test_a_recount_keeps_the_count_of_running_items_while_the_group_is_lost(
    installation: Installation,
) -> None:
    await installation.batch("b1", 3)
    await installation.claim(2)
    before = await depth(installation)
    stream = installation.keys.stream("default", "normal")
    janitor = Janitor(installation.queue, ["default"], lease_s=15)
    await installation.redis.xgroup_destroy(stream, "workers")
    assert await janitor.recount() == 0
    await installation.redis.rename(stream, "kept")
    await installation.redis.set(stream, "somebody's")
    assert await janitor.recount() == 0
    assert await depth(installation) == before
