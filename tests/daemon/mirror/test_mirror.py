"""The tables say what the records say, whatever happens to the events on their way."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.mirror import mirror as mirror_module
from daemon.mirror.database import Database
from daemon.mirror.mirror import GROUP, Mirror
from daemon.queue.outcomes import Released, Retry
from daemon.settings import SecretUrl, SettingsError
from tests.daemon.harness import eventually
from tests.daemon.live import made
from tests.daemon.mirror.rig import Followed
from tests.daemon.mirror.server import PostgresServer

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "BLOCK_MS", 10)


async def some_work(followed: Followed) -> None:
    """Jobs and batches with every end, a retry, a cancel, and items that wait."""
    installation = followed.installation
    jobs = [{"id": f"j{k}", "prompt": prompt} for k, prompt in enumerate(("good", "bad", "odd", "good"))]
    await installation.submit(*jobs, {"id": "three", "prompt": "good", "n": 3, "metadata": {"sku": "a\0b"}})
    await installation.batch("b1", 5, metadata={"season": "spring"})
    await followed.work()
    await installation.orders.retry("item", "default//j1", ("failed",))
    await installation.batch("b2", 4)
    [again] = [item for item in await installation.claim(2) if item.uid.startswith("default/b2/")][:1]
    error = {"kind": "server_error", "message": "Try later.", "charged": "no", "retryable": True}
    await installation.queue.settle(again, Retry(error, delay_s=60.0))
    await installation.orders.cancel("item", "default/b2/i3", ("queued", "running"))
    await installation.submit({"id": "waits", "prompt": "good", "not_before": "2999-01-01T00:00:00Z"})


async def test_the_tables_equal_the_records_row_by_row(followed: Followed) -> None:
    await some_work(followed)
    await followed.follow()
    assert await followed.written() == await followed.recorded()
    states = {row["state"] for row in (await followed.written())[0]}
    assert states >= {"succeeded", "queued", "held", "running", "retry_wait", "cancelled"}


async def test_events_that_come_twice_and_in_any_order_change_nothing(followed: Followed) -> None:
    await some_work(followed)
    entries = await followed.redis.xrange(followed.keys.events)
    events = [(name.decode(), fields) for name, fields in entries] * 2
    for seed in range(5):
        random.Random(seed).shuffle(events)
        await followed.database.run(_emptied)
        start = 0
        for size in (1, 2, 3, 5, 8, 13, len(events)):
            await followed.mirror._write(events[start : start + size])
            start += size
        assert await followed.written() == await followed.recorded(), f"seed {seed}"


async def _emptied(tables: Any) -> None:
    await tables._connection.execute("TRUNCATE pixmill_items, pixmill_batches, pixmill_position")


async def test_an_older_event_never_overwrites_a_newer_row(followed: Followed) -> None:
    await followed.installation.submit({"id": "one", "prompt": "good"})
    await followed.work()
    await followed.follow()
    [queued, *_] = await followed.redis.xrange(followed.keys.events)
    await followed.redis.delete(followed.keys.item("default//one"))  # no record can help
    await followed.mirror._write([(queued[0].decode(), queued[1])])
    [row], _ = await followed.written()
    assert row["state"] == "succeeded"


@pytest.mark.parametrize("left", [0, 1, 5])
async def test_trimmed_events_are_filled_in_from_the_records(followed: Followed, left: int) -> None:
    await followed.installation.submit({"id": "early", "prompt": "slow"}, {"id": "later", "prompt": "good"})
    await followed.follow()
    await some_work(followed)
    await followed.redis.xtrim(followed.keys.events, maxlen=left, approximate=False)
    await followed.mirror.step()
    await followed.follow()
    assert await followed.written() == await followed.recorded()


async def test_a_mirror_that_begins_late_finds_all_that_is_on_record(followed: Followed) -> None:
    await some_work(followed)
    await followed.redis.xtrim(followed.keys.events, maxlen=3, approximate=False)
    await followed.mirror.step()
    await followed.follow()
    assert await followed.written() == await followed.recorded()


async def test_an_event_that_contradicts_its_row_sends_the_mirror_to_the_record(followed: Followed) -> None:
    """The event in between has vanished, and no trim shows it."""
    await followed.installation.batch("b1", 3)
    await followed.follow()
    before = len(await followed.redis.xrange(followed.keys.events))
    await followed.work()
    entries = await followed.redis.xrange(followed.keys.events)
    vanished = [name for name, fields in entries[before:] if fields[b"type"] == b"job.started"]
    await followed.redis.xdel(followed.keys.events, *vanished)
    await followed.follow()
    assert await followed.written() == await followed.recorded()
    assert all(row["started_at"] for row in (await followed.written())[0])


async def test_events_alone_tell_the_end_of_work_whose_records_have_ended(followed: Followed) -> None:
    await followed.installation.batch("b1", 3, metadata={"season": "spring"})
    await followed.work()
    items, [batch] = await followed.recorded()
    for key in await followed.redis.keys("pixmill:[bi]*"):
        await followed.redis.delete(key)
    await followed.follow()
    written, [ended] = await followed.written()
    assert written == items
    # The event has the batch's duration, rounded to a millisecond, and not its beginning.
    assert abs(ended.pop("accepted_at") - batch.pop("accepted_at")) <= timedelta(milliseconds=1)
    assert ended == batch


async def test_work_whose_end_was_missed_and_whose_record_has_ended_is_unknown(followed: Followed) -> None:
    await followed.installation.submit({"id": "gone", "prompt": "good"})
    await followed.follow()
    await followed.work()
    await followed.redis.delete(followed.keys.item("default//gone"))
    await followed.redis.xtrim(followed.keys.events, maxlen=0, approximate=False)
    await followed.mirror.step()
    [row], _ = await followed.written()
    assert row["state"] == "unknown"


async def test_an_item_that_was_released_without_an_event_is_looked_up(followed: Followed) -> None:
    await followed.installation.submit({"id": "back", "prompt": "good"})
    [item] = await followed.installation.claim()
    await followed.follow()
    await followed.installation.queue.settle(item, Released())
    assert not await followed.agrees()
    await followed.mirror._filler.running((2**45, 0), silent_s=60.0)
    assert await followed.agrees()


async def test_redis_that_comes_back_without_its_last_events_corrects_the_tables(followed: Followed) -> None:
    await followed.installation.submit({"id": "one", "prompt": "good"})
    await followed.follow()
    saved = {key: await followed.redis.dump(key) for key in await followed.redis.keys("*")}
    await followed.work()
    await followed.follow()
    assert (await followed.written())[0][0]["state"] == "succeeded"
    await followed.redis.flushall()
    for key, value in saved.items():
        await followed.redis.restore(key, 0, value)
    await followed.mirror.step()
    assert await followed.written() == await followed.recorded()
    assert (await followed.written())[0][0]["state"] == "queued"


async def test_what_another_mirror_left_unwritten_is_written(followed: Followed) -> None:
    await followed.installation.batch("b1", 3)
    await followed.mirror._in_group(followed.redis.xgroup_create(followed.keys.events, GROUP, id="0"))
    await followed.redis.xreadgroup(GROUP, "mirror", {followed.keys.events: ">"})
    await followed.follow()
    assert await followed.agrees()


async def test_an_event_is_acknowledged_after_its_commit_alone(
    followed: Followed, postgres: PostgresServer
) -> None:
    await followed.mirror.step()
    await followed.installation.batch("b1", 3)
    postgres.stop()
    try:
        step = asyncio.create_task(followed.mirror.step())
        await eventually(followed.pending)
        assert not step.done()
        step.cancel()
        await asyncio.wait([step])
        assert await followed.pending() == 4
    finally:
        postgres.start()
    await followed.follow()
    assert await followed.agrees()


async def test_postgres_may_stop_and_start_again_while_events_go_on(
    followed: Followed, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async def follow_for_ever() -> None:
        while True:
            await followed.mirror.step()

    following = asyncio.create_task(follow_for_ever())
    await followed.installation.batch("b1", 3)
    await eventually(followed.agrees)
    await followed.reader.aclose()  # which would notice the outage as well
    postgres.stop()
    try:
        await followed.installation.batch("b2", 3)
        await followed.work()
        await eventually(followed.pending)
    finally:
        postgres.start()
    await eventually(followed.agrees)
    following.cancel()
    await asyncio.wait([following])
    said = capsys.readouterr().out
    assert said.count("postgres does not serve us; waiting") == 1
    assert said.count("postgres works again") == 1


async def test_an_event_that_does_not_fit_is_left_out_alone(followed: Followed) -> None:
    await followed.installation.batch("b1", 3)
    bad = '{"tenant":"t","job":"x\\u0000y","item":"x\\u0000y","batch":null,"time":"2026-01-01T00:00:00.000Z"}'
    await followed.redis.xadd(followed.keys.events, {"type": "job.queued", "data": bad})
    await followed.redis.xadd(followed.keys.events, {"type": "job.queued", "data": "{"})
    await followed.installation.batch("b2", 3)
    await followed.follow()
    assert await followed.agrees()


async def test_two_mirrors_share_the_events(
    followed: Followed, redis: Redis, postgres: PostgresServer
) -> None:
    database = Database(SecretUrl(postgres.url))
    other = Mirror(redis, redis, followed.keys, database)
    await some_work(followed)
    while not await followed.is_done():
        await asyncio.gather(followed.mirror.step(), other.step())
    await database.aclose()
    assert await followed.written() == await followed.recorded()


async def test_what_one_mirror_has_written_is_no_gap_to_another(
    followed: Followed, redis: Redis, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(SecretUrl(postgres.url))
    other = Mirror(redis, redis, followed.keys, database)
    await followed.installation.batch("b1", 3)
    await other.step()
    await other.step()
    await followed.work()
    await followed.follow()
    await followed.redis.xtrim(followed.keys.events, maxlen=0, approximate=False)
    await other.step()
    await database.aclose()
    assert await followed.agrees()
    assert "reading all records" not in capsys.readouterr().out


@pytest.mark.parametrize("spoilt", ["password", "database", "port"])
async def test_a_database_that_refuses_us_at_the_start_ends_the_command_without_its_password(
    postgres: PostgresServer, spoilt: str
) -> None:
    url = {
        "password": postgres.url_with("planted-wrong"),
        "database": postgres.url.replace("/pixmill", "/planted"),
        "port": postgres.url.replace("%2F", "/"),  # as people write it
    }[spoilt]
    with pytest.raises(SettingsError) as refusal:
        await Database(SecretUrl(url)).prepare()
    assert str(refusal.value).startswith("mirror.postgres can")
    assert "planted-wrong" not in str(refusal.value)
    assert "p@ss" not in str(refusal.value)


async def test_the_tables_are_made_in_the_schema_that_the_url_names(
    followed: Followed, postgres: PostgresServer
) -> None:
    postgres.sql("CREATE SCHEMA shop")
    database = Database(SecretUrl(f"{postgres.url}?search_path=shop"))
    await database.prepare()
    await database.prepare()
    await database.aclose()
    assert postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'shop'") == "3"


async def test_the_view_counts_pictures(followed: Followed, postgres: PostgresServer) -> None:
    """Three SKUs with five pictures are five, and no count depends on an array of results."""
    skus = {"sku1": 2, "sku2": 2, "sku3": 1}
    pictures = [f"{sku}.{k}" for sku, count in skus.items() for k in range(count)]
    rows = [{"id": name, "prompt": "bad" if name == "sku3.0" else "good"} for name in pictures]
    await followed.installation.submit({"id": "autumn", "items": rows}, type="pixmill.batch.v1")
    [first] = await followed.installation.claim()
    await followed.installation.queue.settle(first, made(first))
    await followed.follow()
    columns = "SELECT total, succeeded, failed, ended, progress, cardinality(result_image_urls) FROM pixmill_progress"
    assert postgres.sql(columns) == "5|1|0|1|0.2000|1"
    await followed.work()
    await followed.follow()
    assert postgres.sql(columns) == "5|4|1|5|1.0000|4"
