"""The Python client against a real server: sending, reading, watching, and lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.queue.dead_letters import DeadLetters
from daemon.queue.messages import Claimed
from daemon.queue.orders import DEFAULT_RETRY, Orders
from daemon.queue.outcomes import Outcome, Retry
from pixmill.client import Client, NotRunningError, RejectedError, Result
from pixmill.client.watching import StreamEvent, Watcher
from pixmill.contract import Batch, Job, Rejection
from pixmill.records.records import GroupView, ItemView
from tests.daemon.harness import Installation, eventually
from tests.daemon.live import made, refused, working
from tests.servers import RedisServer


@pytest.fixture
async def client(redis: Redis, redis_server: RedisServer) -> AsyncIterator[Client]:
    async with Client.connect(redis_server.url) as client:
        yield client


# Sending


async def test_a_job_is_sent_once_and_accepted(client: Client, redis: Redis) -> None:
    async with working(redis):
        ident = await client.submit({"prompt": "a kettle"}, wait_accepted_s=10)
    view = await client.status(ident)
    assert isinstance(view, ItemView)
    assert view.spec["prompt"] == "a kettle"


async def test_a_job_may_be_a_model(client: Client, redis: Redis) -> None:
    async with working(redis):
        assert (
            await client.submit(Job(id="j1", prompt="a kettle", tenant="studio"), wait_accepted_s=10) == "j1"
        )
    assert await client.status("j1") is None
    assert await client.status("j1", tenant="studio") is not None


async def test_a_job_against_the_contract_is_refused_before_it_is_sent(client: Client, redis: Redis) -> None:
    with pytest.raises(Rejection, match="did you mean `prompt`"):
        await client.submit({"promt": "a kettle"})
    with pytest.raises(Rejection, match="credential"):
        await client.submit({"prompt": "x", "params": {"api_key": "planted"}})
    assert await redis.xlen(client.keys.jobs) == 0


async def test_the_refusal_of_a_worker_is_an_error_with_its_sentence(client: Client, redis: Redis) -> None:
    async with working(redis):
        with pytest.raises(RejectedError, match='There is no route "defualt"') as caught:
            await client.submit({"prompt": "x", "route": "defualt"}, wait_accepted_s=10)
    assert (caught.value.code, caught.value.field) == ("unknown_route", "route")


async def test_one_id_is_a_duplicate_or_a_conflict(client: Client, redis: Redis) -> None:
    async with working(redis):
        states = []
        for prompt in ("a kettle", "a kettle", "a cup"):
            sent = await client.sender.job({"id": "j1", "prompt": prompt})
            states.append(await client.acceptance(sent))
    assert [(answer.state, answer.code) for answer in states] == [
        ("accepted", None),
        ("duplicate", None),
        ("rejected", "id_conflict"),
    ]


@pytest.mark.parametrize("n", [1, 3])
async def test_without_a_worker_a_job_is_unread_and_stays(client: Client, redis: Redis, n: int) -> None:
    sent = await client.sender.job({"id": "j1", "prompt": "x", "n": n})
    assert (await client.acceptance(sent, timeout_s=0)).state == "unread"
    assert await redis.xlen(client.keys.jobs) == 1
    async with working(redis):
        assert (await client.acceptance(sent)).state == "accepted"


async def test_a_trimmed_entry_is_lost_and_not_accepted(client: Client, redis: Redis) -> None:
    sent = await client.sender.job({"id": "j1", "prompt": "x"})
    await redis.xtrim(client.keys.jobs, maxlen=0)
    assert (await client.acceptance(sent)).state == "lost"


async def test_an_old_refusal_is_not_taken_for_the_new_answer(client: Client, redis: Redis) -> None:
    async with working(redis) as installation:
        with pytest.raises(RejectedError):
            await client.submit({"id": "j1", "prompt": "x", "route": "none"}, wait_accepted_s=10)
        assert await client.submit({"id": "j1", "prompt": "x"}, wait_accepted_s=10) == "j1"
        assert "job.rejected" in await installation.kinds()


async def test_a_batch_of_2500_goes_in_parts_that_are_one_batch(client: Client, redis: Redis) -> None:
    items = [{"id": f"i{k}", "prompt": "x"} for k in range(2500)]
    async with working(redis):
        ident = await client.submit_batch({"id": "big"}, items, wait_accepted_s=20)
        view = await eventually(lambda: _ended(client, ident), 40)
    assert (view.counts.total, view.counts.succeeded, view.parts, view.state) == (2500, 2500, 3, "completed")
    assert [result.id for result in await client.results(ident)] == [item["id"] for item in items]


async def test_a_batch_may_be_a_model(client: Client, redis: Redis) -> None:
    batch = Batch.model_validate(
        {"id": "b1", "defaults": {"prompt": "x"}, "items": [{"id": "a"}, {"id": "b"}]}
    )
    async with working(redis):
        await client.submit_batch(batch, wait_accepted_s=10)
        await eventually(lambda: _ended(client, "b1"))
    assert [result.id for result in await client.results("b1")] == ["a", "b"]


# Reading


async def test_counts_always_sum_to_the_total(client: Client, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 6)
    for item in await installation.claim(3):
        await installation.queue.settle(item, made(item) if item.uid.endswith("i0") else refused())
    await installation.claim(1)
    view = await client.status("b1")
    assert isinstance(view, GroupView)
    counts = view.counts.by_state()
    total = counts.pop("total")
    assert total == sum(counts.values()) == 6
    assert (counts["succeeded"], counts["failed"], counts["running"], counts["queued"]) == (1, 2, 1, 2)
    assert view.progress == 0.5
    assert view.state == "running"
    assert view.finished_at is None


async def test_an_id_means_a_batch_then_a_job_of_several_then_a_single_job(
    client: Client, redis: Redis
) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "same", "prompt": "x"}, {"id": "three", "prompt": "x", "n": 3})
    assert isinstance(await client.status("same"), ItemView)
    await installation.batch("same", 2)
    batch, job = await client.status("same"), await client.status("three")
    assert isinstance(batch, GroupView)
    assert isinstance(job, GroupView)
    assert (batch.kind, job.kind, job.counts.total) == ("batch", "job", 3)
    item, picture = await client.status("same/i1"), await client.status("three.2")
    assert isinstance(item, ItemView)
    assert isinstance(picture, ItemView)
    assert (item.batch, item.id, picture.job, picture.batch) == ("same", "i1", "three", None)
    assert await client.status("nobody") is None
    assert await client.status("same/nobody") is None


async def test_an_item_shows_its_attempts_error_and_next_time(client: Client, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x", "metadata": {"sku": "7"}, "priority": "high"})
    (item,) = await installation.claim()
    await installation.queue.settle(item, Retry({"kind": "server", "message": "Busy."}, 30.0))
    view = await client.status("j1")
    assert isinstance(view, ItemView)
    assert (view.state, view.attempts, view.max_attempts, view.lane) == ("retry_wait", 1, 5, "high")
    assert view.error == {"kind": "server", "message": "Busy."}
    assert view.metadata == {"sku": "7"}
    assert view.due_at is not None
    assert 29 < (view.due_at - view.accepted_at).total_seconds() < 40
    record = view.as_dict()
    assert (record["job"], record["item"], record["batch"], record["images"]) == ("j1", "j1", None, [])


async def test_recent_work_comes_newest_first_and_can_be_narrowed(client: Client, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x"}, {"id": "j2", "prompt": "x", "tenant": "other"})
    await installation.submit({"id": "three", "prompt": "x", "n": 3})
    await installation.batch("b1", 2)
    for item in await installation.claim(1):
        await installation.queue.settle(item, made(item))

    async def ids(**how: Any) -> list[str]:
        return [view.id for view in await client.records.recent(10, **how)]

    assert await ids() == ["b1", "three", "j2", "j1"]
    assert await ids(tenant="other") == ["j2"]
    assert len(await ids(active=True)) == 3
    assert [view.id for view in await client.records.recent(2)] == ["b1", "three"]


async def test_records_that_have_ended_are_left_out(client: Client, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 3)
    await installation.submit({"id": "j1", "prompt": "x"})
    await redis.delete(client.keys.item("default//j1"), client.keys.item("default/b1/i1"))
    assert [view.id for view in await client.records.recent(10)] == ["b1"]
    assert [item.id for item in await client.items("b1")] == ["i0", "i2"]
    with pytest.raises(KeyError):
        await client.results("j1")


# Watching


async def test_a_watch_yields_all_events_of_a_batch_and_ends_with_it(client: Client, redis: Redis) -> None:
    async with working(redis):
        await client.submit_batch({"id": "b1"}, [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "bad"}])
        await eventually(lambda: client.status("b1"))
        kinds = [event.type async for event in client.watch("b1")]
    assert kinds[0] == "batch.accepted"
    assert kinds[-1] == "batch.finished"
    assert sorted(kinds).count("job.succeeded") == 1
    assert sorted(kinds).count("job.failed") == 1


async def test_a_watch_of_an_unknown_id_is_an_error(client: Client) -> None:
    with pytest.raises(KeyError):
        await anext(client.watch("nobody"))


async def test_a_watch_goes_on_after_the_last_event_seen(client: Client, redis: Redis) -> None:
    async with working(redis):
        await client.submit_batch({"id": "b1"}, [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}])
        await eventually(lambda: _ended(client, "b1"))
    events = await _all(client, "b1")
    rest = await _all(client, "b1", start=events[2].id)
    assert [event.id for event in rest] == [event.id for event in events[3:]]


async def test_a_watch_of_a_retried_batch_goes_on_to_its_second_end(client: Client, redis: Redis) -> None:
    prompts = {"bad": refused(), "good": None}

    async def decide(item: Claimed, job: Job) -> Outcome | None:
        return prompts[job.prompt] or made(item)

    async with working(redis, decide):
        await client.submit_batch({"id": "b1"}, [{"id": "a", "prompt": "good"}, {"id": "b", "prompt": "bad"}])
        await eventually(lambda: _ended(client, "b1"))
        prompts["bad"] = None
        await Orders(client.redis, client.keys).retry("group", "default/b1", DEFAULT_RETRY)
        events = await _all(client, "b1")
    states = [event.data["state"] for event in events if event.type == "batch.finished"]
    assert states == ["completed_with_errors", "completed"]


async def test_batches_of_one_name_in_two_tenants_are_kept_apart(client: Client, redis: Redis) -> None:
    async with working(redis):
        for tenant in ("one", "two"):
            items = [{"id": f"{tenant}-item", "prompt": "x"}]
            await client.submit_batch({"id": "b1", "tenant": tenant}, items, wait_accepted_s=10)
        events = [event async for event in client.watch("b1", tenant="two")]
    assert {event.data["tenant"] for event in events} == {"two"}
    assert events[-1].type == "batch.finished"


@pytest.mark.parametrize("n", [1, 3])
async def test_a_job_can_be_watched_to_its_end(client: Client, redis: Redis, n: int) -> None:
    release = asyncio.Event()

    async def decide(item: Claimed, job: Job) -> Outcome | None:
        await release.wait()
        return made(item)

    async with working(redis, decide):
        await client.submit({"id": "j1", "prompt": "x", "n": n}, wait_accepted_s=10)
        watch = client.watch("j1")
        first = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        release.set()
        events = [await first, *[event async for event in watch]]
    assert [event.type for event in events].count("job.succeeded") == n
    assert len({event.data["item"] for event in events if event.type == "job.succeeded"}) == n


@pytest.mark.parametrize(
    ("ident", "state"), [("j1", "job.failed"), ("three", "job.succeeded"), ("b1/i0", "job.failed")]
)
async def test_the_end_of_a_job_is_reported_from_its_record(
    client: Client, redis: Redis, ident: str, state: str
) -> None:
    async with working(redis):
        await client.submit({"id": "j1", "prompt": "bad"})
        await client.submit({"id": "three", "prompt": "x", "n": 3})
        await client.submit_batch({"id": "b1"}, [{"id": "i0", "prompt": "bad"}])
        await eventually(lambda: _ended(client, ident))
        events = await _all(client, ident)
    assert {event.type for event in events} == {state}
    assert all(event.id == "" for event in events)


async def test_a_batch_whose_events_are_lost_still_ends(client: Client, redis: Redis) -> None:
    async with working(redis):
        await client.submit_batch({"id": "b1"}, [{"id": "a", "prompt": "x"}])
        await eventually(lambda: _ended(client, "b1"))
    await redis.delete(client.keys.batch_events("b1"))
    (event,) = await _all(client, "b1")
    assert (event.type, event.data["state"], event.data["counts"]["succeeded"]) == (
        "batch.finished",
        "completed",
        1,
    )


async def test_a_watch_survives_a_server_that_restarts(tmp_path: Path) -> None:
    server = RedisServer(persistent=True)
    troubles: list[Exception] = []
    try:
        async with Client.connect(server.url, on_trouble=troubles.append) as client:
            redis = client.redis
            await redis.config_set("appendfsync", "always")
            installation = Installation(redis)
            await installation.batch("b1", 2)
            items = await installation.claim(2)
            await installation.queue.settle(items[0], made(items[0]))
            seen: list[StreamEvent] = []
            watch = asyncio.create_task(_collect(client, "b1", seen))
            await eventually(lambda: _true(any(event.type == "job.succeeded" for event in seen)))
            server.kill()
            await eventually(lambda: _true(troubles))
            server.start()
            await eventually(lambda: _answers(redis))
            await installation.queue.settle(items[1], made(items[1]))
            await asyncio.wait_for(watch, 20)
    finally:
        server.close()
    assert [event.type for event in seen].count("job.succeeded") == 2
    assert seen[-1].type == "batch.finished"
    assert len({event.id for event in seen}) == len(seen)


async def test_a_watch_gives_up_after_its_patience(redis: Redis, client: Client) -> None:
    class Away:
        async def xread(self, *_: object, **__: object) -> None:
            raise RedisConnectionError("away")

    installation = Installation(redis)
    await installation.batch("b1", 1)
    view = await client.status("b1")
    assert isinstance(view, GroupView)
    away: Any = Away()
    watcher = Watcher(client.records, away, patience_s=0)
    with pytest.raises(RedisConnectionError):
        await anext(watcher.batch(view))


# Dead letters


async def test_a_refused_entry_is_sent_again_once_its_reason_is_gone(client: Client, redis: Redis) -> None:
    letters = DeadLetters(client.redis, client.keys)
    async with working(redis):
        with pytest.raises(RejectedError):
            await client.submit({"id": "j1", "prompt": "x", "route": "later"}, wait_accepted_s=10)
    (letter,) = await letters.newest(10)
    assert (letter.reason, letter.job, letter.may_be_sent) == ("unknown_route", "j1", True)
    async with working(redis, routes=("default", "later")):
        assert await letters.retry(letter) == "resent"
        await eventually(lambda: _ended(client, "j1"))
    assert await letters.newest(10) == []
    assert await letters.retry(letter) == "gone"
    assert await redis.xlen(client.keys.jobs) == 0


async def test_the_dead_letter_of_an_item_brings_its_record_back(client: Client, redis: Redis) -> None:
    """A new entry would be a duplicate of the failed item, and nothing would happen."""
    letters = DeadLetters(client.redis, client.keys)
    installation = Installation(redis)
    await installation.batch("b1", 1, defaults={"prompt": "x", "max_attempts": 1})
    (item,) = await installation.claim()
    await installation.queue.settle(item, Retry({"kind": "server", "message": "Busy."}, 1.0))
    (letter,) = await letters.newest(10)
    assert (letter.reason, letter.batch, letter.item) == ("attempts_exhausted", "b1", "i0")
    assert await letters.retry(letter) == "requeued"
    assert await letters.newest(10) == []
    async with working(redis):
        view = await eventually(lambda: _ended(client, "b1"))
    assert view.state == "completed"


async def test_dead_letters_are_counted_by_reason_and_purged(client: Client, redis: Redis) -> None:
    letters = DeadLetters(client.redis, client.keys)
    installation = Installation(redis)
    await installation.submit(
        {"id": "a", "prompt": "x", "route": "none"}, {"id": "b", "prompt": "x", "route": "none"}
    )
    await installation.add("{not json")
    await installation.add({"id": "c", "prompt": "x", "api_key": "planted"})
    await installation.take_all()
    assert await letters.by_reason() == {"unknown_route": 2, "malformed": 1, "secret_in_payload": 1}
    newest = await letters.newest(10, reason="unknown_route")
    assert [letter.job for letter in newest] == ["b", "a"]
    (secret,) = await letters.newest(10, reason="secret_in_payload")
    assert await letters.retry(secret) == "not_kept"
    assert "planted" not in str(secret.as_dict())
    assert await letters.purge([letter.entry for letter in newest]) == 2
    assert await letters.get(newest[0].entry) is None
    assert await letters.get("not an id") is None


def test_without_redis_the_sentence_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="pixmill up"):
        Client.connect(None, data_dir=tmp_path)


def test_a_result_is_ok_only_with_its_picture() -> None:
    assert Result("a", "a", "succeeded", ({},), None).ok
    assert not Result("a", "a", "held", (), None).ok


async def _all(client: Client, ident: str, **how: Any) -> list[StreamEvent]:
    return [event async for event in client.watch(ident, **how)]


async def _collect(client: Client, ident: str, seen: list[StreamEvent]) -> None:
    async for event in client.watch(ident):
        seen.append(event)  # noqa: PERF401 - other tasks read it meanwhile


async def _ended(client: Client, ident: str) -> Any:
    view = await client.status(ident)
    return view if view is not None and view.ended else None


async def _true(value: object) -> bool:
    return bool(value)


async def _answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except (RedisConnectionError, OSError):
        return False
