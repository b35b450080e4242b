"""Redis comes back without its last writes: a picture that was paid is not bought again.

The server is killed, and the end of its append-only file is cut off, as after a power cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.maintenance.heartbeat import Heartbeat
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome, Released, Succeeded, Unknown
from daemon.queue.outcomes import Retry as Retried
from daemon.queue.queue import Queue
from daemon.worker.run import Phase, Run
from providers.base import Generated, Request, Submitted
from tests.daemon.harness import Bench as Parts
from tests.daemon.harness import Installation
from tests.daemon.worker.test_executor import Bench, generated
from tests.servers import RedisServer


@pytest.fixture
def redis(lasting: Redis) -> Redis:
    return lasting


class Rig:
    """An executor and a pool of runs with a heartbeat, on a server that can lose its last writes."""

    def __init__(self, redis: Redis, server: RedisServer) -> None:
        self.bench = Bench(redis)
        self.installation: Installation = self.bench.installation
        self.queue: Queue = self.installation.queue
        self.provider = self.bench.provider
        self._server = server
        parts = Parts(self.queue, self.installation.metrics, self.bench.executor.run)
        self.pool = parts.pool
        self._heartbeat = Heartbeat(self.queue, parts.limiter, self.pool, parts.calls.lag, lease_s=15)
        self.leaves = asyncio.Event()  # a call has left
        self.may_answer = asyncio.Event()

    async def submit(self, **fields: Any) -> None:
        await self.installation.submit({"id": "a", "prompt": "x", **fields})
        # The first life begins when a replica starts.
        await self.installation.queue.install(records_s=3600, failed_s=3600, starts=True)

    async def claim(self) -> Claimed:
        (item,) = await self.installation.claim()
        return item

    def mark(self) -> int:
        return self._server.written

    async def lose(self, since: int) -> None:
        await asyncio.to_thread(self._server.lose, since)

    async def run(self, item: Claimed) -> Outcome:
        return await self.bench.executor.run(Run(item, self.bench.route, None))

    async def settled(self) -> None:
        item = await self.claim()
        assert await self.queue.settle(item, await self.run(item), "yes") == "succeeded"

    async def in_flight(self) -> None:
        """Start the item in the pool; its call leaves and stays without an answer."""

        async def answer(_request: Request) -> Generated:
            before_send = self.provider.hooks.before_send
            assert before_send is not None
            await before_send(None)
            self.leaves.set()
            await self.may_answer.wait()
            return generated()

        self.provider.answer = answer
        self.bench.call_leaves = self._leaves  # type: ignore[method-assign, assignment]  # the fake does not enter the phase
        self.pool.start(await self.claim(), self.bench.route, None)
        await self.leaves.wait()

    async def _leaves(self, run: Run, _rtt_s: float | None) -> None:
        run.enter(Phase.LEFT)

    async def with_task(self) -> None:
        """Start the item in the pool; its task stays at the provider."""
        self.bench.answers = [Submitted("task-1")]
        self.bench.sleep = self._polls
        self.pool.start(await self.claim(), self.bench.route, None)
        await self.leaves.wait()

    async def _polls(self, _seconds: float) -> None:
        self.leaves.set()
        await self.may_answer.wait()

    async def beat(self) -> None:
        await self._heartbeat.beat()

    async def close(self) -> None:
        self.may_answer.set()
        await self.pool.drain(5, lambda: False)


@pytest.fixture
async def rig(redis: Redis, lasting_server: RedisServer) -> AsyncIterator[Rig]:
    rig = Rig(redis, lasting_server)
    yield rig
    await rig.close()


@pytest.mark.parametrize("policy", ["retry_once", "hold", "fail"])
async def test_a_settled_picture_whose_claim_was_lost_is_found_in_the_store(rig: Rig, policy: str) -> None:
    await rig.submit(on_unknown_outcome=policy)
    before = rig.mark()
    await rig.settled()
    await rig.lose(before)
    await rig.settled()
    assert len(rig.provider.requests) == 1


async def test_an_entry_that_is_accepted_again_finds_its_picture(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The acceptance is younger than the picture then, by as long as Redis was away."""
    monkeypatch.setattr("daemon.storage.keeper.CLOCKS_APART", timedelta(0))
    await rig.installation.queue.install(records_s=3600, failed_s=3600, starts=True)
    await rig.installation.add({"id": "a", "prompt": "x"})
    before = rig.mark()
    await rig.installation.take_all()
    await rig.settled()
    await rig.lose(before)
    await rig.installation.take_all()
    await rig.settled()
    assert len(rig.provider.requests) == 1


async def test_an_entry_that_is_accepted_again_on_the_next_day_finds_its_picture(rig: Rig) -> None:
    """The key of a picture has the day of the acceptance, and a loss may lie around midnight."""
    await rig.submit()
    before = rig.mark()
    await rig.settled()
    await rig.lose(before)
    item = await rig.claim()
    tomorrow = replace(item, accepted_us=item.accepted_us + 24 * 3600 * 1_000_000)
    outcome = await rig.run(tomorrow)
    assert isinstance(outcome, Succeeded)
    first_day = Run(item, rig.bench.route, None).place[1]
    assert f"/{first_day:%Y%m%d}/" in outcome.result["images"][0]["key"]
    assert len(rig.provider.requests) == 1


async def test_a_call_in_flight_whose_claim_was_lost_follows_the_jobs_policy(rig: Rig) -> None:
    await rig.submit(on_unknown_outcome="hold")
    before = rig.mark()
    await rig.in_flight()
    await rig.lose(before)
    await rig.beat()
    item = await rig.claim()
    outcome = await rig.run(item)
    assert isinstance(outcome, Unknown)
    assert await rig.queue.settle(item, outcome, "maybe") == "held"
    assert len(rig.provider.requests) == 1


@pytest.mark.parametrize("looks", ["due", "claim"])
async def test_a_call_in_flight_that_was_handed_in_does_not_expire(rig: Rig, looks: str) -> None:
    await rig.submit(expires_at="2999-01-01T00:00:00Z")
    before = rig.mark()
    await rig.in_flight()
    await rig.lose(before)
    await rig.beat()
    keys, redis = rig.installation.keys, rig.installation.redis
    await redis.hset(keys.item("default//a"), "expires_us", 1)
    await redis.zadd("pixmill:expiring", {"default//a": 1})
    if looks == "due":
        await rig.queue.due()
    item = await rig.claim()
    outcome = await rig.run(item)
    assert isinstance(outcome, Unknown)
    assert await rig.queue.settle(item, outcome, "maybe") == "failed", "it is not sent again so late"


async def test_a_call_that_ends_after_its_claim_was_lost_is_found_in_the_store(rig: Rig) -> None:
    await rig.submit(on_unknown_outcome="hold")
    before = rig.mark()
    await rig.in_flight()
    await rig.lose(before)
    await rig.beat()
    await rig.close()
    await rig.settled()
    assert len(rig.provider.requests) == 1


async def test_a_task_that_a_living_worker_knows_is_polled_by_the_next_owner(rig: Rig) -> None:
    await rig.submit()
    before = rig.mark()
    await rig.with_task()
    await rig.lose(before)
    await rig.beat()
    item = await rig.claim()
    rig.bench.sleep = None
    rig.provider.poll_answers = [generated()]
    assert isinstance(await rig.run(item), Succeeded)
    assert [poll.task_id for poll in rig.provider.polls] == ["task-1"]
    assert len(rig.provider.requests) == 1


async def test_a_task_of_a_living_worker_reaches_an_owner_that_claimed_meanwhile(rig: Rig) -> None:
    await rig.submit()
    before = rig.mark()
    await rig.with_task()
    await rig.lose(before)
    item = await rig.claim()
    await rig.beat()
    rig.bench.sleep = None
    rig.provider.poll_answers = [generated()]
    assert isinstance(await rig.run(item), Succeeded)
    assert [poll.task_id for poll in rig.provider.polls] == ["task-1"]
    assert len(rig.provider.requests) == 1


async def test_a_task_of_a_living_worker_is_in_reserve_beside_the_call_of_a_new_owner(rig: Rig) -> None:
    await rig.submit()
    before = rig.mark()
    await rig.with_task()
    await rig.lose(before)
    item = await rig.claim()
    assert await rig.queue.note_intent(item) == b""
    await rig.beat()
    assert "task-1" in (await rig.installation.record("default//a"))["late_receipt"]
    error = {"kind": "ambiguous_submit", "message": "Lost.", "charged": "maybe"}
    assert await rig.queue.settle(item, Unknown(error), "maybe") == "queued"
    assert b"task-1" in (await rig.claim()).receipt, "polled before anything is bought again"


async def test_a_task_that_its_next_owner_has_dropped_is_not_handed_in(rig: Rig) -> None:
    await rig.submit()
    await rig.with_task()
    page = await rig.queue.reclaim("default", "normal", lease_s=0, cursor="0-0")
    error = {"kind": "provider_fault", "message": "It failed.", "charged": "no"}
    await rig.queue.settle(page.items[0], Retried(error, 0), "no")
    await rig.beat()
    assert not (await rig.installation.record("default//a")).get("late_receipt")


async def test_a_receipt_that_was_lost_is_written_again_by_its_worker(rig: Rig) -> None:
    await rig.submit()
    marks: list[int] = []
    real = rig.queue.note_receipt

    async def noted(*args: Any) -> Any:
        marks.append(rig.mark())
        return await real(*args)

    rig.queue.note_receipt = noted  # type: ignore[method-assign, assignment]  # to see the moment before it
    await rig.with_task()
    await rig.lose(marks[0])
    assert "receipt" not in await rig.installation.record("default//a")
    await rig.beat()
    assert "task-1" in (await rig.installation.record("default//a"))["receipt"]


async def test_an_intent_that_was_lost_is_written_again_by_its_worker(rig: Rig) -> None:
    await rig.submit()
    marks: list[int] = []
    real = rig.bench.note_intent

    async def noted(run: Run) -> bytes:
        marks.append(rig.mark())
        return await real(run)

    rig.bench.note_intent = noted  # type: ignore[method-assign]  # to see the moment before it
    await rig.in_flight()
    await rig.lose(marks[0])
    assert "intent_us" not in await rig.installation.record("default//a")
    await rig.beat()
    assert (await rig.installation.record("default//a"))["intent_us"]


@pytest.mark.parametrize("lost", [False, True])
async def test_a_dead_workers_claim_without_an_intent_is_unknown_after_a_loss(rig: Rig, lost: bool) -> None:
    await rig.submit()
    await rig.claim()
    if lost:
        await rig.lose(rig.mark())
    page = await rig.queue.reclaim("default", "normal", lease_s=0, cursor="0-0")
    (item,) = page.items
    run = Run(item, rig.bench.route, None, adopted=True)
    assert isinstance(await rig.bench.executor.run(run), Unknown if lost else Released)


async def test_a_run_from_before_the_loss_does_not_pass_for_the_new_owner(rig: Rig) -> None:
    await rig.submit()
    before = rig.mark()
    old = await rig.claim()
    await rig.lose(before)
    new = await rig.claim()
    assert old.epoch != new.epoch
    assert await rig.queue.settle(old, Succeeded({"images": []})) == "lost"
    assert await rig.queue.renew([old, new]) == ["lost", "ours"]
    assert await rig.queue.note_remains(old, b"") == "lost", "the new owner may have called already"


async def test_a_run_from_before_the_loss_of_everything_has_an_epoch_of_its_own(
    rig: Rig, redis: Redis
) -> None:
    await rig.submit()
    old = await rig.claim()
    await redis.flushall()
    await rig.submit()
    new = await rig.claim()
    assert await rig.queue.renew([old, new]) == ["lost", "ours"]


async def test_a_new_life_begins_later_than_the_one_before_though_its_clock_is_behind(
    rig: Rig, redis: Redis
) -> None:
    await rig.submit()
    later_us = await rig.queue.now_us() + 3_600_000_000
    await redis.hset("pixmill:installation", mapping={"life": "a former one", "life_us": later_us})
    await rig.claim()
    assert int(await redis.hget("pixmill:installation", "life_us") or 0) == later_us + 1


async def test_after_a_loss_nothing_is_claimed_until_all_replicas_could_hand_in(
    rig: Rig, redis: Redis
) -> None:
    calm = Queue(redis, rig.installation.keys, "w2", calm_s=60)
    await rig.submit()
    assert len((await calm.claim("default", 1)).items) == 1, "the first life of a server is no loss"
    await rig.installation.submit({"id": "b", "prompt": "x"})
    await rig.lose(rig.mark())
    claim = await calm.claim("default", 1)
    assert (claim.items, claim.more) == ([], True)
    assert 59 < claim.calm_s <= 60
    await rig.installation.redis.hincrby("pixmill:installation", "life_us", -60_000_000)
    assert [item.uid for item in (await calm.claim("default", 1)).items] == ["default//b"]


async def test_the_calm_begins_with_the_restart_and_not_with_the_first_claim(rig: Rig, redis: Redis) -> None:
    calm = Queue(redis, rig.installation.keys, "w2", calm_s=60)
    await rig.submit()
    await rig.lose(rig.mark())
    await calm.install(records_s=600, failed_s=600, starts=True)
    await redis.hincrby("pixmill:installation", "life_us", -60_000_000)
    assert len((await calm.claim("default", 1)).items) == 1


async def test_new_work_is_not_looked_up_in_the_store(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.submit()
    await rig.lose(rig.mark())
    await rig.claim()
    await rig.installation.submit({"id": "b", "prompt": "x"})
    item = await rig.claim()
    assert not item.survived
    find = rig.bench.store.get_dated
    looked: list[str] = []

    async def get_dated(key: str) -> Any:
        looked.append(key)
        return await find(key)

    monkeypatch.setattr(rig.bench.store, "get_dated", get_dated)
    assert isinstance(await rig.run(item), Succeeded)
    assert looked == []
