"""A call buys what its caller means, and no more: slips of types, files that exist, faulty tasks, repeated calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import pixmill
from pixmill import GenerationTask
from pixmill.api import tasks as tasks_module
from pixmill.api.items import batch_items
from pixmill.records.keys import Keys
from tests.daemon.harness import Installation
from tests.daemon.live import working
from tests.servers import RedisServer

ACCOUNT = """
[credentials.main]
provider = "hunyuan"
wire = "tc3"
[routes.default]
credential = "main"
model = "hunyuan-image-3.0"
"""


@pytest.fixture
async def worker(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Installation]:
    monkeypatch.chdir(tmp_path)
    async with working(redis) as installation:
        yield installation


@pytest.fixture
async def client(redis_server: RedisServer, worker: Installation) -> AsyncIterator[pixmill.Client]:
    async with pixmill.Client(redis_server.url) as client:
        yield client


def test_a_mapping_is_one_item_and_no_list_of_its_names() -> None:
    assert batch_items({"id": "pan", "prompt": "an iron pan"}) == [{"id": "pan", "prompt": "an iron pan"}]
    with pytest.raises(pixmill.RejectedError, match="object around") as caught:
        batch_items({"items": ["a kettle"]})
    assert caught.value.field == "items"
    with pytest.raises(pixmill.RejectedError, match="together"):
        batch_items("a kettle", options={"width": 512})


def test_a_text_is_one_prompt_and_no_list_of_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[GenerationTask] = []
    client = pixmill.SyncClient("redis://localhost")
    monkeypatch.setattr(client, "generate_batch_sync", lambda tasks, batch_id: made.extend(tasks))
    pixmill.generate_batch_images("a fork", "out", client=client)
    assert [task.prompt for task in made] == ["a fork"]


def test_no_simulator_makes_the_pictures_of_an_older_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUNYUAN_SECRET_ID", "AKID-planted")
    monkeypatch.setenv("HUNYUAN_SECRET_KEY", "planted")
    for name in ("PIXMILL_GATEWAY_URL", "PIXMILL_REDIS__URL", "PIXMILL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(pixmill.NotRunningError, match=r"pixmill\.toml") as caught:
        pixmill.create_client_from_env()
    assert "planted" not in str(caught.value)
    (tmp_path / "pixmill.toml").write_text(ACCOUNT)
    assert isinstance(pixmill.create_client_from_env(), pixmill.SyncClient)


@pytest.mark.parametrize(
    ("record", "ended", "needs_person"),
    [
        ({"state": "running", "counts": {"total": 2, "succeeded": 2}, "parts_left": 1}, False, False),
        ({"state": "running", "counts": {"total": 2, "held": 2}, "parts_left": 1}, False, False),
        ({"state": "running", "counts": {"total": 2, "held": 2}, "parts_left": 0}, False, True),
        ({"state": "completed", "counts": {"total": 2, "succeeded": 2}, "parts_left": 0}, True, False),
        ({"state": "failed"}, True, False),
    ],
)
def test_a_batch_has_not_ended_while_parts_of_it_are_to_come(
    record: dict[str, Any], ended: bool, needs_person: bool
) -> None:
    status = pixmill.Status.from_record({"id": "b1", **record})
    assert (status.ended, status.needs_person) == (ended, needs_person)


async def test_a_picture_with_an_id_is_bought_once(client: pixmill.Client, redis: Redis) -> None:
    first = await client.generate("a kettle", id="sku1")
    assert (first.id, await client.generate("a kettle", id="sku1")) == ("sku1", first)
    with pytest.raises(pixmill.RejectedError, match="one picture"):
        await client.generate("a kettle", n=4)
    assert len([each async for each in redis.scan_iter(f"{Keys('pixmill').item('*')}")]) == 1


async def test_a_file_has_one_task_and_new_work_needs_a_new_file(
    client: pixmill.Client, worker: Installation, tmp_path: Path
) -> None:
    (tmp_path / "old.png").touch()
    (tmp_path / "same").symlink_to(tmp_path)
    tasks = [GenerationTask("a cup", output_path=path) for path in ("old.png", "a.png", "same/a.png")]
    tasks.append(GenerationTask("a pot", output_path="\ud800.png"))
    results = await client.generate_batch_async(tasks)
    words = ("exists already", "in a store", "file of task 2", "file name")
    assert [word in (each.error_message or "") for word, each in zip(words, results, strict=True)] == [
        True
    ] * 4
    assert (await worker.kinds()).count("job.queued") == 1


async def test_a_part_that_a_worker_refuses_ends_its_whole_batch(
    client: pixmill.Client, worker: Installation
) -> None:
    tasks = [GenerationTask("slow", task_id=f"sku{number}") for number in range(1001)]
    tasks[1000] = GenerationTask("slow", model="none", task_id="sku1000")
    with pytest.raises(pixmill.RejectedError, match=r"`route` \(item \"sku1000\"\)") as caught:
        await client.generate_batch_async(tasks, batch_id="big")
    assert (caught.value.is_partial, caught.value.field) == (True, "route")
    kinds = await worker.kinds()
    assert kinds.count("job.rejected") == 1
    status = await client.status("big")
    assert status is not None
    assert status.counts.get("queued", 0) == 0


async def test_a_refused_part_of_a_batch_that_was_there_cancels_nothing(
    client: pixmill.Client, worker: Installation
) -> None:
    await client.submit_batch(["slow"], id="big")
    with pytest.raises(pixmill.RejectedError) as caught:
        await client.submit_batch(["x"] * 1001, id="big")
    assert (caught.value.code, caught.value.is_partial) == ("id_conflict", False)
    assert "job.cancelled" not in await worker.kinds()


async def test_many_faulty_tasks_are_an_error_of_the_batch(
    client: pixmill.Client, worker: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "MOST_REFUSED", 2)
    with pytest.raises(pixmill.RejectedError, match=r"More than 2 .* Task 4"):
        await client.generate_batch_async([GenerationTask("a kettle"), *[GenerationTask("")] * 3])
    assert await worker.kinds() == []


async def test_an_error_names_the_work_that_may_run(redis: Redis, redis_server: RedisServer) -> None:
    async with pixmill.Client(redis_server.url) as client:
        with pytest.raises(pixmill.NotTakenError) as caught:
            await client.generate_batch(["a kettle"], wait_s=0)
        async with working(redis):
            results = await client.generate_batch(["a kettle"], batch_id=caught.value.id)
    assert [each.batch for each in results] == [caught.value.id]


async def test_any_task_id_is_allowed_and_none_takes_the_name_of_another(client: pixmill.Client) -> None:
    assert (await client.generate_image("a kettle", task_id="sku 2")).task_id == "sku 2"
    tasks = [GenerationTask("a cup", task_id="item-0002"), GenerationTask("a pot")]
    results = await client.generate_batch_async(tasks)
    assert [(each.success, each.task_id) for each in results] == [
        (True, "item-0002"),
        (True, "item-0002-task"),
    ]
