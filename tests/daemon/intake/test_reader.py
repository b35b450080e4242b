"""Every entry of the jobs stream ends in exactly one way; refusals name the fault, and no other entry is lost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.intake.refusals import UNKNOWN_TYPE_READS
from providers.registry import create_provider
from tests.daemon.harness import Installation, eventually


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


async def the_only_rejection(installation: Installation) -> dict[str, Any]:
    events = [data for kind, data in await installation.events() if kind == "job.rejected"]
    assert len(events) == 1
    return events[0]


async def nothing_is_left_behind(installation: Installation) -> None:
    """The entry has left the stream, and a later good job is accepted."""
    assert await installation.redis.xlen(installation.keys.jobs) == 0
    pending = await installation.redis.xpending(installation.keys.jobs, "intake")
    assert pending["pending"] == 0
    await installation.submit({"id": "good", "prompt": "a good one"})
    assert [item.uid for item in await installation.claim(5)] == ["default//good"]


BAD_INPUT = {
    "not JSON": ("{id: sku1", "malformed", "data", "not JSON"),
    "wrong type": ({"id": "a", "prompt": 5}, "invalid", "prompt", "prompt"),
    "missing prompt": ({"id": "a"}, "invalid", "prompt", "prompt"),
    "unknown field": ({"id": "a", "prompt": "x", "promt": "y"}, "invalid", "promt", "promt"),
    "entry of 300 KiB": ({"id": "a", "prompt": "x" * 300 * 1024}, "too_large", "data", "256 KiB"),
    "api_key inside": (
        {"id": "a", "prompt": "x", "params": {"api_key": "sk-planted-secret-value"}},
        "secret_in_payload",
        "params.api_key",
        "credential",
    ),
    "unknown route": ({"id": "a", "prompt": "x", "route": "defualt"}, "unknown_route", "route", "default"),
    "n of 0": ({"id": "a", "prompt": "x", "n": 0}, "invalid", "n", "1 to 10"),
    "a size that the provider does not make": (
        {"id": "a", "prompt": "x", "size": "8192x8192"},
        "unsupported",
        "size",
        "4096x4096",
    ),
    "an inputs URL to the metadata address": (
        {"id": "a", "prompt": "x", "inputs": [{"url": "https://169.254.169.254/latest/meta-data"}]},
        "unsupported",
        "inputs.0.url",
        "169.254.169.254",
    ),
}


@pytest.mark.parametrize(
    "beside",
    [
        {"blob": "x" * 2_000_000},
        {"n" * 100_000: "x"},
        {f"field-{number}": "x" * 100 for number in range(500)},
        {"type": "t" * 100_000},
    ],
    ids=["a value", "a name", "many", "the type"],
)
async def test_fields_beside_the_data_are_capped_and_not_kept_whole(
    installation: Installation, beside: dict[str, str]
) -> None:
    await installation.add({"id": "a", "prompt": "x"}, **beside)
    await installation.take_all()
    rejection = await the_only_rejection(installation)
    assert (rejection["code"], "at most 16 KiB" in rejection["message"]) == ("too_large", True)
    assert len(str(await installation.dead())) < 64 * 1024
    await nothing_is_left_behind(installation)


@pytest.mark.parametrize("case", BAD_INPUT)
async def test_bad_input_ends_as_one_dead_letter_and_the_rest_goes_on(
    installation: Installation, case: str
) -> None:
    data, code, field, words = BAD_INPUT[case]
    await installation.submit(data) if isinstance(data, dict) else await installation.add(data)
    await installation.take_all()

    rejection = await the_only_rejection(installation)
    assert rejection["code"] == code
    assert rejection["field"] == field
    assert words in rejection["message"]
    assert rejection["message"].endswith((".", "?")), "it is a sentence"
    dead = await installation.dead()
    assert [letter["reason"] for letter in dead] == [code]
    assert json.loads(dead[0]["error"])["message"] == rejection["message"]
    await nothing_is_left_behind(installation)


async def test_an_entry_that_could_not_be_read_is_named_by_its_stream_id(installation: Installation) -> None:
    entry = await installation.add("not json")
    await installation.take_all()
    assert (await the_only_rejection(installation))["job"] == entry


async def test_a_secret_in_a_payload_is_kept_nowhere(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await installation.submit({"id": "a", "prompt": "x", "authorization": "Bearer planted-secret"})
    await installation.add('{"id": "b", "token": "planted-secret", broken')
    studio = {
        "job_id": "c",
        "user_id": "u",
        "mode": "batch_series_generate",
        "options": {"api_key": "planted-secret"},
    }
    await installation.add(studio, type="image-studio.batch.v1")
    newer = await installation.add({"api_key": "planted-secret"}, type="pixmill.job.v9")
    await installation.take_all()
    monkeypatch.setattr("daemon.intake.refusals.UNKNOWN_TYPE_READS", 0)
    rows = await installation.redis.xrange(installation.keys.jobs, newer, newer)
    await installation.intake.take([(newer, rows[0][1])])
    assert len(await installation.dead()) == 4
    for key in await installation.redis.keys("*"):
        kind = await installation.redis.type(key)
        content = (
            await installation.redis.xrange(key) if kind == b"stream" else await installation.redis.dump(key)
        )
        assert "planted-secret" not in repr(content), key


async def test_the_same_id_with_the_same_content_makes_no_second_item(
    installation: Installation,
) -> None:
    job = {"id": "a", "prompt": "x", "seed": 0}
    await installation.submit(job, dict(reversed(list(job.items()))))
    assert await installation.kinds() == ["job.queued", "job.duplicate"]
    assert len(await installation.claim(5)) == 1


async def test_the_same_id_with_other_content_is_rejected_and_the_first_stands(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"})
    rejection = await the_only_rejection(installation)
    assert rejection["code"] == "id_conflict"
    assert "new id" in rejection["message"]
    items = await installation.claim(5)
    assert [json.loads(item.spec)["prompt"] for item in items] == ["x"]


async def test_one_id_cannot_be_a_job_of_one_and_a_job_of_several(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"}, {"id": "a", "prompt": "x", "n": 3})
    await installation.submit({"id": "b", "prompt": "x", "n": 3}, {"id": "b", "prompt": "x"})
    assert (await installation.kinds()).count("job.rejected") == 2
    assert len(await installation.claim(9)) == 4


async def test_ids_of_two_tenants_do_not_collide(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y", "tenant": "anna"})
    assert await installation.kinds() == ["job.queued", "job.queued"]


async def test_a_batch_sent_twice_is_one_batch_and_with_other_content_a_conflict(
    installation: Installation,
) -> None:
    await installation.batch("b1", 3)
    await installation.batch("b1", 3)
    assert (await installation.kinds()).count("job.duplicate") == 1
    await installation.batch("b1", 4)
    assert (await the_only_rejection(installation))["code"] == "id_conflict"
    assert (await installation.group("default/b1"))["total"] == "3"


async def test_one_wrong_item_refuses_the_batch_and_is_named(installation: Installation) -> None:
    items = [{"id": "i0"}, {"id": "i1", "size": "8192x8192"}]
    await installation.submit(
        {"id": "b1", "defaults": {"prompt": "x"}, "items": items}, type="pixmill.batch.v1"
    )
    rejection = await the_only_rejection(installation)
    assert rejection["field"] == "items.1.size"
    assert rejection["message"].startswith('`items.1.size` (item "i1"): ')
    assert rejection["job"] == "b1"
    assert await installation.claim(5) == []


async def test_a_seed_that_hunyuan_has_not_is_named_with_its_item_and_field(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    hunyuan = create_provider(
        "hunyuan", base_url=None, secrets={"secret_id": "AKIDx", "secret_key": "planted-key"}, options={}
    )
    monkeypatch.setattr(installation.provider, "check", hunyuan.check)
    items = [{"id": "i0", "seed": 1}, {"id": "i1", "seed": 0}]
    await installation.submit(
        {"id": "b1", "defaults": {"prompt": "x"}, "items": items}, type="pixmill.batch.v1"
    )
    rejection = await the_only_rejection(installation)
    assert rejection["field"] == "items.1.seed"
    assert rejection["message"] == ('`items.1.seed` (item "i1"): The seed 0 is outside 1..4294967295.')
    await hunyuan.aclose()


async def test_n_pictures_are_n_items_with_seeds_that_count_up_from_the_given_one(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x", "n": 3, "seed": 0})
    items = await installation.claim(5)
    assert [item.uid for item in items] == ["default//a.0", "default//a.1", "default//a.2"]
    assert [json.loads(item.spec)["seed"] for item in items] == [0, 1, 2]
    queued = [data for kind, data in await installation.events() if kind == "job.queued"]
    assert [(data["job"], data["item"], data["batch"]) for data in queued] == [
        ("a", "a.0", None),
        ("a", "a.1", None),
        ("a", "a.2", None),
    ]


async def test_an_unknown_type_waits_for_a_newer_replica_and_is_buried_at_last(
    installation: Installation,
) -> None:
    entry = await installation.add({"id": "a", "prompt": "x"}, type="pixmill.job.v9")
    await installation.take_all()
    assert await installation.dead() == []
    for _ in range(UNKNOWN_TYPE_READS - 1):
        await installation.redis.xclaim(installation.keys.jobs, "intake", "other", 0, [entry])
        rows = await installation.redis.xrange(installation.keys.jobs, entry, entry)
        await installation.intake.take([(entry, rows[0][1])])
    assert (await the_only_rejection(installation))["code"] == "unknown_type"
    assert [letter["reason"] for letter in await installation.dead()] == ["unknown_type"]
    await nothing_is_left_behind(installation)


async def test_an_entry_of_a_crashed_replica_is_read_again_and_accepted_once(
    installation: Installation,
) -> None:
    await installation.intake.create_group()
    await installation.add({"id": "a", "prompt": "x"})
    await installation.redis.xreadgroup("intake", "crashed", {installation.keys.jobs: ">"})
    installation.intake._lease_s = 0
    await installation.intake.reclaim()
    assert await installation.kinds() == ["job.queued"]
    await nothing_is_left_behind_but(installation, "default//a")


async def nothing_is_left_behind_but(installation: Installation, uid: str) -> None:
    assert await installation.redis.xlen(installation.keys.jobs) == 0
    assert [item.uid for item in await installation.claim(5)] == [uid]


async def test_an_interrupted_expansion_of_a_batch_is_completed_and_counted(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_accept = installation.queue.accept
    calls = 0

    async def dies_in_the_second_chunk(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ConnectionError("the process dies here")
        return await real_accept(*args)

    monkeypatch.setattr(installation.queue, "accept", dies_in_the_second_chunk)
    with pytest.raises(ConnectionError):
        await installation.batch("b1", 250)
    assert await installation.redis.xlen(installation.keys.jobs) == 1
    installation.intake._lease_s = 0
    await installation.intake.reclaim()

    group = await installation.group("default/b1")
    assert (group["total"], group["queued"], group["parts_left"]) == ("250", "250", "0")
    assert len(await installation.claim(400)) == 250
    assert await installation.redis.xlen(installation.keys.jobs) == 0
    assert (await installation.kinds()).count("job.queued") == 250


async def test_cancelling_a_batch_that_is_still_being_accepted_ends_all_of_it(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_accept = installation.queue.accept
    cancelled = False

    async def cancelled_after_the_first_chunk(*args: Any) -> Any:
        nonlocal cancelled
        answer = await real_accept(*args)
        if not cancelled:
            cancelled = True
            await installation.orders.cancel("group", "default/b1", ["queued", "running"])
        return answer

    monkeypatch.setattr(installation.queue, "accept", cancelled_after_the_first_chunk)
    await installation.batch("b1", 250)
    group = await installation.group("default/b1")
    assert (group["cancelled"], group["queued"], group["state"]) == ("250", "0", "cancelled")
    assert await installation.claim(10) == []


async def test_cloud_event_attributes_and_metadata_are_echoed_in_every_event(
    installation: Installation,
) -> None:
    await installation.submit(
        {"id": "a", "prompt": "x", "metadata": {"order": "77"}}, source="/shop", traceparent="00-ab-cd-01"
    )
    _, data = (await installation.events())[0]
    assert data["metadata"] == {"order": "77"}
    assert data["cloudevent"] == {"source": "/shop", "traceparent": "00-ab-cd-01"}


async def test_a_cancel_of_unknown_work_is_rejected_by_name(installation: Installation) -> None:
    await installation.submit({"job": "ghost"}, type="pixmill.cancel.v1")
    rejection = await the_only_rejection(installation)
    assert rejection["code"] == "not_found"
    assert "ghost" in rejection["message"]


async def test_a_group_that_was_lost_is_made_again_from_the_beginning(installation: Installation) -> None:
    await installation.add({"id": "a", "prompt": "x"})
    assert await installation.intake._read() == []  # there is no group yet; it is made at 0
    await installation.intake.take(await installation.intake._read())
    assert await installation.kinds() == ["job.queued"]


async def test_a_replica_consumes_from_its_first_read_on_also_while_no_job_comes(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.intake.reader.BLOCK_MS", 60_000)
    intake = Installation(redis).intake

    async def has_read() -> bool:
        return intake.read_at is not None

    running = asyncio.create_task(intake.run())
    try:
        await eventually(has_read)
    finally:
        running.cancel()
        await asyncio.wait([running])
