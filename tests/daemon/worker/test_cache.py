"""A copy of a stored picture: its own key, the same bytes, no call, and no harm by a crash at any step."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from obstore.store import MemoryStore
from redis.asyncio import Redis

from daemon.accounts.routes import Routes
from daemon.maintenance.reclaimer import Reclaimer
from daemon.queue.outcomes import Cancelled, Failed, Missed, Outcome, Succeeded
from daemon.storage.object_store import ResultStore, StorageError
from daemon.worker.cache import AT_ONCE, Copies
from daemon.worker.run import Run
from pixmill.records.keys import CACHED, LANES, Uid
from pixmill.records.records import ItemView, Records
from providers.errors import ErrorKind, ProviderError
from tests.daemon import harness
from tests.daemon.harness import eventually
from tests.daemon.worker.test_executor import Bench, generated, png


class CacheBench(Bench):
    """The executor's bench, with identical jobs."""

    async def use(self, ident: str, **fields: Any) -> None:
        await self.installation.submit({"id": ident, "prompt": "x", "cache": "use", **fields})

    async def made(self, ident: str = "a", **fields: Any) -> dict[str, Any]:
        """Run an item with a call of its own; returns its image."""
        await self.use(ident, **fields)
        outcome = await self.end(await self.next())
        assert isinstance(outcome, Succeeded)
        image: dict[str, Any] = outcome.result["images"][0]
        return image

    async def next(self, *queues: str) -> Run:
        while (await self.installation.queue.due())[0]:
            pass
        claim = await self.installation.queue.claim("default", 1, queues=queues or LANES)
        return Run(claim.items[0], self.route, None)

    async def end(self, run: Run) -> Outcome:
        outcome = await self.executor.run(run)
        await self.installation.queue.settle(run.item, outcome)
        return outcome

    async def copied(self, ident: str = "b", **fields: Any) -> Outcome:
        await self.use(ident, **fields)
        return await self.end(await self.next(CACHED))

    async def taken_over_copy(self) -> Run:
        page = await self.installation.queue.reclaim("default", CACHED, lease_s=0, cursor="0-0")
        return Run(page.items[0], self.route, None, adopted=True)

    async def objects(self) -> list[str]:
        store = self.store._store
        assert isinstance(store, MemoryStore)
        return sorted(entry["path"] for entry in await store.list().collect_async())

    async def replace(self, key: str, data: bytes | None) -> None:
        store = self.store._store
        assert isinstance(store, MemoryStore)
        await store.delete_async(key)
        if data is not None:
            await store.put_async(key, data)


@pytest.fixture
def bench(redis: Redis) -> CacheBench:
    return CacheBench(redis)


async def test_a_copy_has_its_own_key_and_the_same_bytes_and_costs_nothing(bench: CacheBench) -> None:
    first = await bench.made()
    outcome = await bench.copied()
    assert isinstance(outcome, Succeeded)
    (image,) = outcome.result["images"]
    assert image["key"] == first["key"].replace("/a.png", "/b.png") != first["key"]
    assert await bench.store.get(image["key"]) == await bench.store.get(first["key"])
    same = ("sha256", "bytes", "width", "height", "content_type", "seed")
    assert [image[name] for name in same] == [first[name] for name in same]
    assert image["thumb_url"] == first["thumb_url"].replace("/a~", "/b~")
    own = {
        name: outcome.result[name] for name in ("cache", "cached_from", "cost", "attempts", "revised_prompt")
    }
    assert own == {
        "cache": "hit",
        "cached_from": "a",
        "cost": None,
        "attempts": 0,
        "revised_prompt": "a nicer x",
    }
    assert len(bench.provider.requests) == 1
    view = await Records(bench.installation.redis, bench.installation.keys).item(Uid("default", "", "b"))
    assert isinstance(view, ItemView)
    assert set(view.as_dict()["calls"].values()) == {0}
    assert (view.as_dict()["priority"], view.attempts) == ("normal", 0)


async def test_a_copy_that_is_taken_over_in_a_new_life_of_redis_costs_nothing(bench: CacheBench) -> None:
    await bench.made()
    await bench.use("b")
    await bench.next(CACHED)
    copy = replace((await bench.taken_over_copy()).item, survived=True)
    parts = harness.Bench(bench.installation.queue, bench.installation.metrics, bench.executor.run)
    parts.pool.start(copy, bench.route, None, adopted=True)
    await parts.pool.drain(10, lambda: False)
    view = await Records(bench.installation.redis, bench.installation.keys).item(Uid("default", "", "b"))
    assert isinstance(view, ItemView)
    assert view.state == "succeeded"
    assert set(view.as_dict()["calls"].values()) == {0}


async def test_a_copy_without_a_thumbnail_has_none(bench: CacheBench) -> None:
    await bench.made()
    outcome = await bench.copied(output={"thumbnail": False})
    assert isinstance(outcome, Succeeded)
    assert outcome.result["images"][0]["thumb_url"] is None


async def test_a_copy_that_waited_differs_from_one_that_came_later(bench: CacheBench) -> None:
    await bench.installation.batch("b1", 2, defaults={"prompt": "x", "cache": "use"})
    leader = await bench.next()
    outcome = await bench.end(leader)
    assert isinstance(outcome, Succeeded)
    assert (outcome.result["cache"], outcome.result["cached_from"]) == ("miss", None)
    joined = await bench.end(await bench.next(CACHED))
    assert isinstance(joined, Succeeded)
    assert (joined.result["cache"], joined.result["cached_from"]) == ("joined", "b1/i0")


@pytest.mark.parametrize("now", [None, b"not the picture", png(9, 9)], ids=["gone", "damaged", "another"])
async def test_a_picture_that_is_gone_or_changed_is_made_again(bench: CacheBench, now: bytes | None) -> None:
    first = await bench.made()
    await bench.replace(first["key"], now)
    assert isinstance(await bench.copied(), Missed)
    outcome = await bench.end(await bench.next())
    assert isinstance(outcome, Succeeded)
    assert (outcome.result["cache"], len(bench.provider.requests)) == ("miss", 2)
    await bench.use("c")
    again = await bench.end(await bench.next(CACHED))
    assert isinstance(again, Succeeded)
    assert again.result["cached_from"] == "b"


async def test_an_entry_that_ended_meanwhile_is_a_miss(bench: CacheBench) -> None:
    await bench.made()
    await bench.use("b")
    for key in await bench.installation.redis.keys("*:picture:*"):
        await bench.installation.redis.delete(key)
    assert await bench.end(await bench.next(CACHED)) == Missed(b"")
    assert isinstance(await bench.end(await bench.next()), Succeeded)


async def test_a_refusal_of_the_leader_is_not_charged_to_a_follower(bench: CacheBench) -> None:
    refused = ProviderError(ErrorKind.MODERATION_OUTPUT, "Not this.", http_status=400)
    bench.answers = [refused.billed(generated().cost, "USD")]
    await bench.use("a")
    await bench.use("b")
    first = await bench.end(await bench.next())
    second = await bench.end(await bench.next(CACHED))
    assert isinstance(first, Failed)
    assert isinstance(second, Failed)
    assert first.error["charged"] == "yes"
    assert second.error == {**{k: v for k, v in first.error.items() if k != "cost"}, "charged": "no"}
    assert len(bench.provider.requests) == 1


async def test_a_copy_that_is_cancelled_in_time_ends_cancelled(bench: CacheBench) -> None:
    await bench.made()
    await bench.use("b")
    run = await bench.next(CACHED)
    run.cancel_requested.set()
    assert isinstance(await bench.end(run), Cancelled)


async def test_a_copy_with_a_task_of_its_own_polls_that_task(bench: CacheBench) -> None:
    await bench.made()
    await bench.use("b")
    run = await bench.next(CACHED)
    await bench.installation.queue.note_receipt(run.item, b'{"task_id":"t1"}')
    adopted = await bench.taken_over_copy()
    assert adopted.item.receipt
    assert await bench.end(adopted) == Missed(b"")
    again = await bench.next()
    assert (again.item.lane, again.item.receipt) == ("normal", b'{"task_id":"t1"}')
    bench.provider.poll_answers = [generated()]
    outcome = await bench.end(again)
    assert isinstance(outcome, Succeeded)
    assert (outcome.result["provider_task_id"], outcome.result["cache"]) == ("t1", "miss")
    assert len(bench.provider.requests) == 1, "the first picture's"
    await bench.use("c")
    copy = await bench.end(await bench.next(CACHED))
    assert isinstance(copy, Succeeded)


async def test_a_cancel_of_a_copy_with_a_task_of_its_own_keeps_the_task(bench: CacheBench) -> None:
    await bench.made()
    await bench.use("b")
    run = await bench.next(CACHED)
    await bench.installation.queue.note_receipt(run.item, b'{"task_id":"t1"}')
    adopted = await bench.taken_over_copy()
    await bench.installation.orders.cancel("item", adopted.item.uid, ["running"])
    adopted.cancel_requested.set()
    await bench.end(adopted)
    record = await bench.installation.record(adopted.item.uid)
    assert record["state"] == "cancelled"
    await bench.installation.orders.retry("item", adopted.item.uid, ["cancelled"])
    assert (await bench.next()).item.receipt == b'{"task_id":"t1"}'


async def test_a_copy_that_was_stored_and_never_settled_is_settled_by_the_next_owner(
    bench: CacheBench,
) -> None:
    await bench.made()
    await bench.use("b")
    first = await bench.executor.run(await bench.next(CACHED))
    stored = await bench.objects()
    again = await bench.end(await bench.taken_over_copy())
    assert again == first
    assert await bench.objects() == stored
    assert len(bench.provider.requests) == 1


async def test_a_stored_copy_is_found_although_its_source_is_gone(
    bench: CacheBench,
) -> None:
    first = await bench.made()
    await bench.use("b")
    await bench.executor.run(await bench.next(CACHED))
    await bench.replace(first["key"], None)
    assert isinstance(await bench.end(await bench.taken_over_copy()), Missed)
    found = await bench.end(await bench.next())
    assert isinstance(found, Succeeded)
    assert (
        hashlib.sha256(await bench.store.get(found.result["images"][0]["key"]) or b"").hexdigest()
        == first["sha256"]
    )
    assert len(bench.provider.requests) == 1


async def test_a_stored_picture_of_an_unsettled_leader_serves_all_and_is_paid_once(
    bench: CacheBench,
) -> None:
    await bench.use("a")
    await bench.use("b")
    await bench.executor.run(await bench.next())  # stored, and then the worker dies
    assert isinstance(await bench.end(await bench.taken_over()), Succeeded)
    assert isinstance(await bench.end(await bench.next(CACHED)), Succeeded)
    assert len(bench.provider.requests) == 1


class Copier:
    """The loop that starts copies, beside a replica with the slots of the test."""

    def __init__(self, bench: CacheBench, redis: Redis, slots: int) -> None:
        self.bench = bench
        installation = bench.installation
        self.looks: list[float] = []
        replica = harness.Bench(installation.queue, installation.metrics, bench.executor.run, slots=slots)
        self.running, self.gate, self.bell = replica.pool, replica.gate, replica.bell
        self.rung = replica.bell.copies_rung
        bell: Any = self  # a bell that only records the waits for it
        self.copies = Copies([bench.route], installation.queue, self.running, bell, self.gate)

    async def wait_for_copies(self, timeout_s: float) -> None:
        self.looks.append(timeout_s)

    def counted(self) -> dict[str, int]:
        families = self.bench.installation.metrics.cache.collect()
        samples = [s for family in families for s in family.samples if s.name.endswith("_total")]
        return {sample.labels["result"]: int(sample.value) for sample in samples}


@pytest.fixture
async def full(bench: CacheBench, redis: Redis) -> AsyncIterator[Copier]:
    """A replica without a free slot."""
    copier = Copier(bench, redis, slots=0)
    yield copier
    await copier.running.drain(5, lambda: False)


async def test_copies_need_neither_a_permit_nor_a_free_slot_and_are_counted(full: Copier) -> None:
    bench = full.bench
    await bench.made()
    for ident in ("b", "c"):
        await bench.use(ident)
    assert full.running.free == 0
    await full.copies.step()
    await full.running.drain(5, lambda: False)
    for ident in ("b", "c"):
        assert (await bench.installation.record(f"default//{ident}"))["state"] == "succeeded"
    assert full.counted() == {"hit": 2, "miss": 0, "joined": 0}
    assert await bench.installation.redis.keys("pixmill:limiter:*") == []


async def test_every_success_with_cache_use_is_a_hit_a_miss_or_joined(full: Copier) -> None:
    bench = full.bench
    await bench.use("a")
    await bench.use("b")
    full.running.start((await bench.next()).item, bench.route, None)
    await full.running.drain(5, lambda: False)
    await bench.installation.queue.due()
    await full.copies.step()
    await full.running.drain(5, lambda: False)
    await bench.use("c", cache="off")
    full.running.start((await bench.next()).item, bench.route, None)
    await full.running.drain(5, lambda: False)
    assert full.counted() == {"hit": 0, "miss": 1, "joined": 1}


async def test_the_end_of_a_copy_makes_room_for_others_and_no_other_end_makes_the_replica_look(
    full: Copier,
) -> None:
    bench = full.bench
    await bench.use("a")
    full.running.start((await bench.next()).item, bench.route, None)
    await full.running.drain(5, lambda: False)
    assert not full.rung.is_set()
    await bench.use("b")
    await full.copies.step()
    await full.running.drain(5, lambda: False)
    assert full.rung.is_set()


async def test_a_queued_copy_rings_for_copies(full: Copier) -> None:
    await full.bench.made()
    listening = asyncio.create_task(full.bell.run())
    try:
        await asyncio.wait_for(full.rung.wait(), 10)  # it listens, and may have missed something before
        full.rung.clear()
        await full.bench.use("b")
        await asyncio.wait_for(full.rung.wait(), 10)
    finally:
        listening.cancel()


async def test_no_more_copies_run_at_once_than_the_limit(full: Copier) -> None:
    bench = full.bench
    await bench.made()
    for k in range(AT_ONCE + 3):
        await bench.use(f"b{k}")
    await full.copies.step()
    assert len(full.running.current()) == AT_ONCE
    await full.copies.step()
    assert full.looks, "it waits for the bell while there is no room"

    async def all_done() -> bool:
        await full.copies.step()
        return len(await bench.objects()) == 2 * (AT_ONCE + 4)

    await eventually(all_done)


async def test_nothing_is_copied_while_the_store_is_away(
    full: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full.bench.made()
    await full.bench.use("b")
    waited: list[float] = []

    async def wait_open(timeout_s: float) -> None:
        waited.append(timeout_s)

    monkeypatch.setattr(full.gate, "wait_open", wait_open)
    full.gate.failed(StorageError("it is away"))
    await full.copies.step()
    assert (full.running.current(), len(waited)) == ([], 1)
    full.gate.why = None
    await full.copies.step()
    await full.running.drain(5, lambda: False)
    assert (await full.bench.installation.record("default//b"))["state"] == "succeeded"


async def test_a_copy_of_a_silent_worker_is_taken_over_and_made(full: Copier) -> None:
    bench = full.bench
    await bench.made()
    await bench.use("b")
    await bench.next(CACHED)  # and its worker dies
    reclaimer = Reclaimer(
        bench.installation.queue,
        Routes([bench.route]),
        full.running,
        bench.installation.metrics,
        lease_s=0,
        most_crashes=5,
    )
    assert await reclaimer.sweep() == 1
    await full.running.drain(5, lambda: False)
    assert (await bench.installation.record("default//b"))["state"] == "succeeded"
    assert len(bench.provider.requests) == 1


async def test_a_store_that_is_away_makes_a_copy_wait_and_costs_no_attempt(
    bench: CacheBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.made()
    real, failures = ResultStore.get, [StorageError("away"), StorageError("away")]

    async def get(self: ResultStore, key: str, **more: Any) -> bytes | None:
        if failures:
            raise failures.pop()
        return await real(self, key, **more)

    monkeypatch.setattr(ResultStore, "get", get)
    assert isinstance(await bench.copied(), Succeeded)
    assert len(bench.slept) == 2
