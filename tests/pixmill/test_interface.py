"""One interface over Redis, over a gateway, and with a daemon in this process; asynchronous and synchronous."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import pixmill
from pixmill import GenerationTask
from tests.daemon.harness import eventually
from tests.daemon.live import working
from tests.pixmill.ways import ENVIRON, STYLES, WAYS, Producer, producer
from tests.servers import RedisServer


@pytest.fixture(params=[(way, style) for way in WAYS for style in STYLES], ids="-".join)
async def client(
    request: pytest.FixtureRequest,
    redis: Redis,
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Producer]:
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    way, style = request.param
    async with producer(way, style, redis_server.url, tmp_path) as made:
        yield made


async def test_prompts_become_results_that_are_bought_once_and_no_item_harms_another(
    client: Producer,
) -> None:
    progress: list[tuple[int, int]] = []
    prompts = ["a kettle", "a forbidden kettle", {"id": "mine", "prompt": "a cup", "seed": 0}]

    async def made() -> Any:
        return await client(
            "generate_batch",
            prompts,
            on_progress=lambda *counts: progress.append(counts),
            batch_id="b1",
            size="1024x1024",
        )

    results = await made()
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert [(each.id, each.state, each.batch) for each in results] == [
        ("item-0001", "succeeded", "b1"),
        ("item-0002", "failed", "b1"),
        ("mine", "succeeded", "b1"),
    ]
    assert results[1].error["kind"] == "moderation_input"
    assert all(each.seconds > 0 for each in results)
    data = await client("picture", results[2])
    assert hashlib.sha256(data).hexdigest() == results[2].images[0]["sha256"]
    status = await client("status", "b1")
    assert (status.id, status.state, status.ended, status.done) == ("b1", "completed_with_errors", True, 3)
    kinds = [event.type for event in await client("watch", "b1")]
    assert (kinds[0], kinds[-1]) == ("batch.accepted", "batch.finished")

    bought = client.bought
    assert await made() == results
    assert client.bought == bought
    with pytest.raises(pixmill.RejectedError) as caught:
        await client("submit_batch", ["another prompt"], id="b1")
    assert caught.value.code == "id_conflict"


async def test_jobs_orders_and_refusals(client: Producer) -> None:
    ident = await client("submit", "a jug", seed=0)
    (result,) = await client("wait", ident)
    assert (result.ok, result.images[0]["seed"], result.job, result.batch) == (True, 0, ident, None)
    assert (await client("status", ident)).counts == {"total": 1, "succeeded": 1}

    await client("submit_batch", ["a vase takes 3 s", "a forbidden vase"], id="b2")

    async def failed() -> bool:
        return bool((await client("status", "b2")).counts["failed"])

    await eventually(failed)
    await client("cancel", "b2/item-0002")  # it has ended: nothing changes
    await client("retry", "b2/item-0002")

    async def bought() -> bool:
        return bool(client.simulator.ledger.calls_by_prompt()["a forbidden vase"] == 2)

    await eventually(bought)
    for order in ("cancel", "retry", "results"):
        with pytest.raises(pixmill.NotFoundError, match="nobody"):
            await client(order, "nobody")
    assert await client("status", "nobody") is None
    with pytest.raises(pixmill.RejectedError, match="did you mean `prompt`"):
        await client("submit", {"promt": "a jug"})
    with pytest.raises(pixmill.RejectedError, match="no route") as caught:
        await client("submit_batch", ["a jug"], route="none")
    assert caught.value.code == "unknown_route"
    await client("cancel", "b2")


async def test_tasks_become_files_that_are_new(client: Producer, tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"mine")
    tasks = [
        GenerationTask("a kettle", "1024:1024", output_path="out/kettle.png", task_id="sku1"),
        GenerationTask("", task_id="empty"),
        GenerationTask("a cup", output_path="there.png", task_id="sku 2"),
        GenerationTask("a pot", output_path="../pot.png", task_id="sku3"),
        GenerationTask("a forbidden pan", output_path="pan.png", task_id="sku1"),
    ]
    results = await client.tasks(tasks, batch_id="b3")
    assert [(each.success, each.task_id) for each in results] == [
        (True, "sku1"),
        (False, "empty"),
        (False, "sku 2"),
        (False, "sku3"),
        (False, "sku1"),
    ]
    assert (tmp_path / "out/kettle.png").read_bytes().startswith(b"\x89PNG")
    assert (there.read_bytes(), results[2].image_url is None) == (b"mine", False)
    assert not (tmp_path.parent / "pot.png").exists()
    assert [
        word in each.error_message
        for word, each in zip(("prompt", "exists", "..", ""), results[1:], strict=True)
    ]
    assert results[4].generation_time > 0
    assert pixmill.batch_statistics(results).success_rate == 1 / 5
    assert await client.tasks(tasks, batch_id="b3") == results
    assert client.bought == 3
    assert (await client("generate_image", "a jug", "512:512", "jug.png")).success


@pytest.mark.parametrize("name", [name for name in dir(pixmill.Client) if not name.startswith("_")])
def test_both_styles_have_the_same_calls(name: str) -> None:
    if isinstance(getattr(pixmill.Client, name), int | None):
        assert isinstance(getattr(pixmill.SyncClient, name), property)
        return
    other = {"aclose": "close"}.get(name, name)
    ours, theirs = (inspect.signature(getattr(kind, known)).parameters for kind, known in (
        (pixmill.Client, name), (pixmill.SyncClient, other)))  # fmt: skip
    assert list(ours.values()) == list(theirs.values())


async def test_a_call_that_is_left_early_loses_no_picture(redis: Redis, redis_server: RedisServer) -> None:
    async with working(redis), pixmill.Client(redis_server.url) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.generate_batch(["x", "slow"], batch_id="b1")
        results = await client.results("b1")
        assert [each.state for each in results] == ["succeeded", "running"]
        held = await client.generate_batch(["x", "odd"])  # only a person can go on
    assert [each.state for each in held] == ["succeeded", "held"]


async def test_what_nobody_takes_is_an_error_that_names_it(redis: Redis, redis_server: RedisServer) -> None:
    async with pixmill.Client(redis_server.url) as client:
        with pytest.raises(pixmill.NotTakenError, match='No worker has taken "b1"'):
            await client.generate_batch(["x"], batch_id="b1", wait_s=0)
        assert await client.generate_batch([]) == []
    async with pixmill.Client("redis://127.0.0.1:1") as client:
        with pytest.raises(pixmill.UnavailableError, match="Redis does not answer"):
            await client.status("b1")
    async with pixmill.Client("http://127.0.0.1:1") as client:
        with pytest.raises(pixmill.UnavailableError, match="The gateway does not answer"):
            await client.submit("x")
    with pytest.raises(pixmill.NotRunningError, match="begins with redis://"):
        pixmill.Client("localhost")
