"""Live events over HTTP: exact replay, no gap and no event twice, each listener its own, and an end."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.events.sse import BATCH, KEYS, finish, ids_of, listening, publish, resyncs
from tests.daemon.gateway.rig import Door


async def test_a_batch_is_heard_from_its_first_event_to_its_end(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 3)
    async with listening(quiet_door.http, BATCH) as heard:
        await heard.until(4)
        await finish(quiet_door)
        await asyncio.wait_for(heard.closed.wait(), 10)
    assert heard.ids == await ids_of(redis, "b1")
    assert heard.kinds[0] == "batch.accepted"
    assert heard.kinds[-2:] == ["batch.finished", "end"]


async def test_a_batch_that_has_ended_is_replayed_and_ends(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 30)
    await finish(quiet_door)
    known = (await ids_of(redis, "b1"))[10]
    for path, last in ((BATCH, None), (BATCH, known), (f"{BATCH}?after={known}", None)):
        async with listening(quiet_door.http, path, last) as heard:
            await asyncio.wait_for(heard.closed.wait(), 10)
        ids = await ids_of(redis, "b1")
        assert heard.ids == (ids if (path, last) == (BATCH, None) else ids[11:])
        assert heard.kinds[-1] == "end"


async def test_the_last_event_id_overrides_the_address(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 5)
    await finish(quiet_door)
    ids = await ids_of(redis, "b1")
    async with listening(quiet_door.http, f"{BATCH}?after={ids[1]}", ids[-2]) as heard:
        await asyncio.wait_for(heard.closed.wait(), 10)
    assert heard.ids == ids[-1:]


async def test_a_batch_that_a_retry_has_opened_again_goes_on(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 2)
    await quiet_door.installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    await quiet_door.installation.orders.retry("group", "default/b1", ["cancelled"])
    async with listening(quiet_door.http, BATCH) as heard:
        await heard.until(len(await ids_of(redis, "b1")))
        assert "batch.finished" in heard.kinds
        await finish(quiet_door)
        await heard.until_kind("end")
    assert heard.ids == await ids_of(redis, "b1")


async def test_the_headers_keep_proxies_from_holding_frames_back(quiet_door: Door) -> None:
    await quiet_door.installation.batch("b1", 1)
    retries = set()
    for _ in range(4):
        async with listening(quiet_door.http, BATCH, **{"Accept-Encoding": "gzip, br, zstd"}) as heard:
            await heard.until(2)
        retries.add(heard.retry_ms)
        assert heard.headers["content-type"].startswith("text/event-stream")
        assert heard.headers["cache-control"] == "no-cache, no-transform"
        assert heard.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in heard.headers
    assert len(retries) > 1
    assert all(2500 <= retry <= 4500 for retry in retries)


async def test_a_reconnect_in_the_middle_of_a_burst_is_exact(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 1)
    burst = asyncio.create_task(publish(redis, "b1", 0, 400))
    ids: list[str] = []
    while not burst.done() or len(ids) < 402:
        async with listening(quiet_door.http, BATCH, ids[-1] if ids else None) as heard:
            await heard.until(min(37, 402 - len(ids)))
        ids += heard.ids
    await burst
    assert ids == await ids_of(redis, "b1")
    assert resyncs(quiet_door) == 0


async def test_a_burst_larger_than_a_queue_reaches_a_listener_whole(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 1)
    async with listening(quiet_door.http, BATCH) as heard:
        await heard.until(2)
        pipe = redis.pipeline(transaction=False)
        for number in range(2000):
            pipe.xadd(
                KEYS.events,
                {"type": "job.queued", "data": f'{{"tenant":"default","batch":"b1","k":{number}}}'},
            )
        await pipe.execute()
        await heard.until(2002)
    assert heard.ids == await ids_of(redis, "b1")


async def test_two_tenants_with_one_batch_name_hear_only_their_own(quiet_door: Door, redis: Redis) -> None:
    for tenant in ("one", "two"):
        await quiet_door.installation.batch("b1", 2, tenant=tenant)
    async with (
        listening(quiet_door.http, f"{BATCH}?tenant=one") as one,
        listening(quiet_door.http, f"{BATCH}?tenant=two") as two,
        listening(quiet_door.http, "/v1/events?tenant=two") as all_of_two,
    ):
        for number in range(20):
            await publish(redis, "b1", number, 1, "one")
            await publish(redis, "b1", number, 1, "two")
        await one.until(23)
        await two.until(23)
        await all_of_two.until(20)
    for heard, tenant in ((one, "one"), (two, "two"), (all_of_two, "two")):
        assert {frame.data["tenant"] for frame in heard.frames} == {tenant}
        assert heard.ids == (await ids_of(redis, "b1", tenant))[-len(heard.ids) :]


async def test_a_deletion_by_another_tenant_takes_nothing_from_a_listener(
    quiet_door: Door, redis: Redis
) -> None:
    await quiet_door.installation.batch("b1", 2, tenant="gone")
    await finish(quiet_door)
    await quiet_door.installation.batch("b1", 2)
    deleted = await quiet_door.http.delete("/v1/batches/b1?tenant=gone")
    assert deleted.status_code == 204
    for path in (BATCH, f"{BATCH}?after=0-0", f"{BATCH}?after={(await ids_of(redis, 'b1'))[0]}"):
        async with listening(quiet_door.http, path) as heard:
            await heard.until(2)
        assert heard.ids == (await ids_of(redis, "b1"))[-len(heard.ids) :]
        assert "resync" not in heard.kinds


async def test_a_tenants_events_go_on_after_the_last_id(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 2)
    await quiet_door.installation.batch("b2", 2, tenant="other")
    await quiet_door.installation.submit({"id": "k1", "prompt": "x"})
    async with listening(quiet_door.http, "/v1/events", "0-0") as heard:
        await heard.until(4)
        await redis.xadd(KEYS.events, {"type": "quota.cooldown", "data": '{"quota":"q"}'})
        await publish(redis, "b1", 0, 1)
        await heard.until(6)
    assert heard.kinds == ["batch.accepted", *["job.queued"] * 3, "quota.cooldown", "batch.progress"]


@pytest.mark.parametrize("pictures", [1, 3])
async def test_a_jobs_events_end_with_its_last_picture(quiet_door: Door, pictures: int) -> None:
    await quiet_door.installation.submit(
        {"id": "other", "prompt": "x"}, {"id": "k1", "prompt": "x", "n": pictures}
    )
    async with listening(quiet_door.http, "/v1/jobs/k1/events") as heard:
        await finish(quiet_door)
        await asyncio.wait_for(heard.closed.wait(), 10)
    async with listening(quiet_door.http, "/v1/jobs/k1/events") as again:
        await asyncio.wait_for(again.closed.wait(), 10)
    assert again.frames == heard.frames
    assert {frame.data["job"] for frame in heard.frames if frame.event != "end"} == {"k1"}
    assert heard.kinds.count("job.succeeded") == pictures
    assert heard.kinds[-1] == "end"


async def test_an_item_of_a_batch_is_heard_alone(quiet_door: Door) -> None:
    await quiet_door.installation.batch("b1", 3)
    async with listening(quiet_door.http, "/v1/batches/b1/items/i1/events") as heard:
        await finish(quiet_door)
        await asyncio.wait_for(heard.closed.wait(), 10)
    assert {frame.data["item"] for frame in heard.frames[:-1]} == {"i1"}
    assert heard.kinds == ["job.queued", "job.started", "job.succeeded", "end"]


@pytest.mark.parametrize(
    ("path", "header", "field"),
    [
        (f"{BATCH}?after=1-x", "", "after"),
        (f"{BATCH}?after=x", "", "after"),
        (f"{BATCH}?after=-1", "", "after"),
        (f"{BATCH}?after=%C2%B2-0", "", "after"),
        ("/v1/events?after=1-2-3", "", "after"),
        ("/v1/jobs/k1/events?after=99999999999999999999", "", "after"),
        (BATCH, "abc", "Last-Event-ID"),
    ],
)
async def test_an_id_that_is_none_is_a_bad_parameter(
    quiet_door: Door, path: str, header: str, field: str
) -> None:
    await quiet_door.installation.batch("b1", 1)
    headers = {"Last-Event-ID": header} if header else {}
    refused = await quiet_door.http.get(path, headers=headers)
    assert refused.status_code == 400
    assert (refused.json()["code"], refused.json()["field"]) == ("bad_parameter", field)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/batches/none/events",
        "/v1/batches/b1/events?tenant=other",
        "/v1/batches/b1%00/events",
        "/v1/batches/%2e%2e/events",
        f"/v1/batches/{'x' * 129}/events",
        "/v1/batches/b1/items/none/events",
        "/v1/jobs/b1/events",
        "/v1/jobs/k1%0a/events",
    ],
)
async def test_foreign_unknown_and_odd_ids_are_the_same_404(quiet_door: Door, path: str) -> None:
    await quiet_door.installation.batch("b1", 1)
    await quiet_door.installation.submit({"id": "k1", "prompt": "x"})
    unknown = (await quiet_door.http.get("/v1/batches/unknown/events")).json()
    refused = await quiet_door.http.get(path)
    assert (refused.status_code, refused.json()) == (404, unknown)
