"""The pool and its dispatcher: slots, stops, takeovers of own items, and drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.accounts.routes import Route, Routes
from daemon.maintenance.heartbeat import Heartbeat
from daemon.maintenance.reclaimer import Reclaimer
from daemon.queue.messages import LeaseLost
from daemon.queue.outcomes import Failed, Outcome, Succeeded, Unknown
from daemon.worker.dispatcher import Dispatcher
from daemon.worker.run import Phase, Recalled, Run
from limiter import Bound, Grant, Later, Permit
from limiter.quota.quota import Quota, parse_quota
from providers.base import Submitted
from tests.daemon.harness import Bench, Installation, eventually

DONE = Succeeded({"images": []})


class Replica:
    """Running, dispatcher, heartbeat and reclaimer of one replica; items end at a sign from the test."""

    def __init__(self, redis: Redis, quota: Quota | None = None, slots: int = 4, worker: str = "w1") -> None:
        self.installation = Installation(redis, worker=worker)
        quotas = () if quota is None else (quota,)
        self.route = Route("default", self.installation.provider, "model-1", quotas)
        self.queue, metrics = self.installation.queue, self.installation.metrics
        bench = Bench(self.queue, metrics, self._execute, slots=slots)
        self.limiter, self.calls, self.pool, self.bell = bench.limiter, bench.calls, bench.pool, bench.bell
        self.may_end = asyncio.Event()
        self.started: list[Run] = []
        self.dispatcher = Dispatcher(
            self.route,
            self.queue,
            self.limiter,
            self.pool,
            self.bell,
            metrics,
            bench.accounts,
            bench.gate,
            lambda _route: None,
        )
        self.heartbeat = Heartbeat(self.queue, self.limiter, self.pool, self.calls.lag, lease_s=1)
        self.reclaimer = Reclaimer(
            self.queue, Routes([self.route]), self.pool, metrics, lease_s=0, most_crashes=5
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def _execute(self, run: Run) -> Outcome:
        run.enter(Phase.CALLING)
        self.started.append(run)
        await self.may_end.wait()
        return DONE

    def dispatch(self) -> None:
        self.tasks += [asyncio.create_task(self.dispatcher.run()), asyncio.create_task(self.bell.run())]

    async def listening(self) -> bool:
        return self.bell.listening

    async def close(self) -> None:
        self.may_end.set()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.pool.drain(5, lambda: False)

    async def has_started(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.started) >= count

        await eventually(enough)


@pytest.fixture
async def replica(redis: Redis) -> AsyncIterator[Replica]:
    replica = Replica(redis)
    yield replica
    await replica.close()


@pytest.fixture
async def limited(redis: Redis) -> AsyncIterator[Replica]:
    replica = Replica(redis, parse_quota("q", {"in_flight": 2}))
    yield replica
    await replica.close()


async def test_no_more_items_run_than_slots_and_a_free_slot_is_used_at_once(
    replica: Replica,
) -> None:
    await replica.installation.batch("b1", 9)
    replica.dispatch()
    await replica.has_started(4)
    assert replica.pool.free == 0
    assert len(await replica.installation.claim(9)) == 5, "the others are still in the queue"
    replica.may_end.set()


async def test_every_item_of_a_busy_queue_is_run_and_settled(replica: Replica) -> None:
    replica.may_end.set()
    await replica.installation.batch("b1", 200)
    replica.dispatch()

    async def completed() -> bool:
        return (await replica.installation.group("default/b1"))["state"] == "completed"

    await eventually(completed)


async def test_a_job_without_a_permit_stays_in_its_queue_and_holds_no_slot(limited: Replica) -> None:
    await limited.installation.batch("b1", 5)
    limited.dispatch()
    await limited.has_started(2)

    async def bound() -> bool:
        return limited.dispatcher.bound == Bound("q", "in_flight")

    await eventually(bound)
    assert limited.pool.free == 2
    group = await limited.installation.group("default/b1")
    assert (group["queued"], group["running"]) == ("3", "2")


async def test_a_freed_lease_starts_the_next_item(limited: Replica) -> None:
    await limited.installation.batch("b1", 6)
    limited.dispatch()
    await limited.has_started(2)
    limited.may_end.set()
    await limited.has_started(6)


async def test_a_permit_that_finds_no_work_is_given_back(limited: Replica) -> None:
    async def nothing() -> bool:
        (state,) = await limited.limiter.snapshot(limited.route.quotas)
        return state.in_flight == 0

    limited.dispatcher._more = True  # as after a claim that another replica was faster to follow
    await limited.dispatcher._step()
    assert await nothing()


async def test_a_dispatcher_that_is_stopped_gives_its_slot_back(
    redis: Redis,
) -> None:
    quota = parse_quota("q", {"images": "1/s"})
    replica = Replica(redis, quota)
    await replica.installation.batch("b1", 2)
    replica.dispatch()
    await replica.has_started(1)

    async def reserved() -> bool:
        """Whether a future slot is charged."""
        seconds, micros = await redis.time()
        now_us = int(seconds) * 1_000_000 + int(micros)
        return bool(await redis.zcount("pixmill:limiter:q:log:images", now_us, "+inf"))

    await eventually(reserved)
    await replica.close()
    assert not await reserved()


async def test_a_slot_that_is_recalled_while_its_dispatcher_sleeps_is_replaced(
    redis: Redis,
) -> None:
    quota = parse_quota("q", {"images": "1/s"})
    replica = Replica(redis, quota)
    await replica.installation.batch("b1", 2)
    replica.dispatch()
    await replica.has_started(1)

    async def reserved() -> bool:
        return int(await redis.zcard("pixmill:limiter:q:log:images")) == 2

    await eventually(reserved)
    refused = replica.started[0].permit
    await replica.limiter.penalise(quota, retry_after_s=2.5, reason="429", permit=refused)
    await replica.has_started(2)
    permits = [run.permit for run in replica.started]
    first, second = (permit for permit in permits if permit is not None)
    assert second.granted_us > first.granted_us
    assert second.slot_us - first.slot_us >= 2_500_000
    await replica.close()


async def test_a_dispatcher_that_slept_past_its_slot_requests_another(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(redis, parse_quota("q", {"in_flight": 1}))
    await replica.installation.batch("b1", 1)
    slept_s = iter((60.0, 0.0))

    async def woke(_permit: Permit, _requested_at: float, _until: float) -> bool:
        now = time.monotonic() + next(slept_s)
        monkeypatch.setattr(replica.bell.recalls, "clock", lambda: now)
        return True

    monkeypatch.setattr(replica.bell.recalls, "sleep", woke)
    await replica.dispatcher._step()
    monkeypatch.undo()
    assert replica.started == []
    assert await redis.zcard("pixmill:limiter:q:leases") == 0, "its place may have been given to another one"
    await replica.dispatcher._step()
    await replica.has_started(1)
    await replica.close()


@pytest.mark.parametrize("change", ["pause", "cut"])
async def test_a_permit_that_is_recalled_after_the_claim_sends_nothing(redis: Redis, change: str) -> None:
    quota = parse_quota("q", {"images": "5/min", "in_flight": 3})
    replica = Replica(redis, quota)
    replica.tasks.append(asyncio.create_task(replica.bell.run()))
    await eventually(replica.listening)
    requested_at = time.monotonic()
    answer = await replica.limiter.acquire([quota], holder="w1", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    if change == "pause":
        await replica.limiter.pause("q", "stop")
    else:
        await replica.limiter.penalise(quota, retry_after_s=60, reason="429")
    await replica.installation.submit({"id": "a", "prompt": "x"})
    [item] = await replica.installation.claim()
    run = Run(item, replica.route, answer.permit, slot_at=requested_at, requested_at=requested_at)

    async def called_back() -> bool:
        try:
            await replica.calls.call_begins(run)
        except Recalled:
            return True
        return False

    await eventually(called_back)
    await replica.calls.call_ended(run)
    (state,) = await replica.limiter.snapshot([quota])
    assert state.in_flight == 0
    assert await redis.zcard("pixmill:limiter:q:log:images") == 0
    await replica.close()


async def test_a_permit_that_is_recalled_during_a_late_report_sends_nothing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = parse_quota("q", {"images": "5/min"})
    replica = Replica(redis, quota)
    requested_at = time.monotonic()
    answer = await replica.limiter.acquire([quota], holder="w1", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)

    async def sent_late(*_: object) -> None:
        replica.bell.recalls.note("quota q")

    monkeypatch.setattr(replica.limiter, "sent_late", sent_late)
    await replica.installation.submit({"id": "a", "prompt": "x"})
    [item] = await replica.installation.claim()
    run = Run(item, replica.route, answer.permit, slot_at=requested_at - 60, requested_at=requested_at)
    with pytest.raises(Recalled):
        await replica.calls.call_begins(run)
    await replica.close()


async def test_a_call_whose_last_byte_is_late_is_counted_from_then_on(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = parse_quota("q", {"images": "5/min"})
    replica = Replica(redis, quota)
    answer = await replica.limiter.acquire([quota], holder="w1", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    reported: list[object] = []
    away = asyncio.Event()

    async def sent_late(permit: object, _quotas: object) -> None:
        await away.wait()
        reported.append(permit)

    monkeypatch.setattr(replica.limiter, "sent_late", sent_late)
    await replica.installation.submit({"id": "a", "prompt": "x"})
    [item] = await replica.installation.claim()
    run = Run(item, replica.route, answer.permit, slot_at=time.monotonic() + 60)
    replica.calls.call_sent(run)
    run.slot_at = time.monotonic() - 60
    for _ in range(2):
        replica.calls.call_sent(run)
    away.set()

    async def reported_once() -> bool:
        return reported == [answer.permit]

    await eventually(reported_once)
    await replica.close()
    assert reported == [answer.permit], "not when it was in time, and once when it was not"


async def test_the_place_of_a_dead_workers_unanswered_call_is_not_freed(
    redis: Redis,
) -> None:
    quota = parse_quota("q", {"in_flight": 1})
    replica = Replica(redis, quota)
    answer = await replica.limiter.acquire([quota], holder="w0", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    await replica.installation.submit({"id": "a", "prompt": "x"})
    [item] = await replica.installation.claim()
    item = replace(item, intent_us=time.time_ns() // 1000)
    await replica.calls.call_ended(Run(item, replica.route, answer.permit, adopted=True))
    assert await redis.zcard("pixmill:limiter:q:leases") == 1, "it may still run; the lease ends by itself"
    await replica.calls.call_ended(
        Run(replace(item, receipt=b'{"task_id":"t"}'), replica.route, answer.permit, adopted=True)
    )
    assert await redis.zcard("pixmill:limiter:q:leases") == 0
    await replica.close()


@pytest.mark.parametrize(("intent_us", "left"), [(None, 0), (1, 1)])
async def test_the_permit_of_a_call_without_an_intent_is_given_back_whole(
    redis: Redis, intent_us: int | None, left: int
) -> None:
    quota = parse_quota("q", {"images": "5/min", "in_flight": 1})
    replica = Replica(redis, quota)
    answer = await replica.limiter.acquire([quota], holder="w0", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    await replica.installation.submit({"id": "a", "prompt": "x"})
    [item] = await replica.installation.claim()
    orphan = Run(replace(item, intent_us=intent_us), replica.route, answer.permit, adopted=True)
    await replica.calls.call_ended(orphan)
    for book in ("leases", "log:images"):
        assert await redis.zcard(f"pixmill:limiter:q:{book}") == left
    await replica.close()


@pytest.mark.parametrize(("task", "left"), [(None, 1), (Submitted("t"), 0)])
async def test_the_place_of_an_unanswered_call_ends_with_its_lease_alone(
    redis: Redis, task: Submitted | None, left: int
) -> None:
    quota = parse_quota("q", {"in_flight": 2})
    replica = Replica(redis, quota)

    async def lost(run: Run) -> Outcome:
        run.enter(Phase.CALLING)
        run.submitted = task
        return Unknown({"kind": "ambiguous_submit", "charged": "maybe"})

    replica.pool.execute = lost
    await replica.installation.submit({"id": "a", "prompt": "x", "on_unknown_outcome": "hold"})
    replica.dispatch()

    async def held() -> bool:
        return (await replica.installation.record("default//a"))["state"] == "held"

    await eventually(held)
    assert await redis.zcard("pixmill:limiter:q:leases") == left
    await replica.close()


async def test_the_permit_of_a_call_that_never_left_is_given_back_whole(redis: Redis) -> None:
    replica = Replica(redis, parse_quota("q", {"images": "5/min", "in_flight": 2}))

    async def unreachable(run: Run) -> Outcome:
        run.enter(Phase.CALLING)
        return Failed({"kind": "network_unsent", "charged": "no"})

    replica.pool.execute = unreachable
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()

    async def failed() -> bool:
        return (await replica.installation.record("default//a"))["state"] == "failed"

    await eventually(failed)
    assert await redis.zcard("pixmill:limiter:q:log:images") == 0
    assert await redis.zcard("pixmill:limiter:q:leases") == 0
    assert not [name for name in await replica.installation.record("default//a") if name.startswith("calls_")]
    await replica.close()


@pytest.fixture
async def announced(replica: Replica) -> Run:
    await replica.installation.submit({"id": "a", "prompt": "x"})
    [item] = await replica.installation.claim()
    run = Run(item, replica.route, None)
    await replica.calls.announce(run)
    run.enter(Phase.CALLING)
    return run


async def taken_over(replica: Replica) -> None:
    await replica.installation.other("heir").reclaim("default", "normal", lease_s=0, cursor="0-0")


async def test_a_call_is_not_sent_after_its_item_was_taken_over_in_a_stall(
    replica: Replica, announced: Run
) -> None:
    announced.announced_at -= 60
    await replica.calls.call_leaves(announced, 0.01)
    await taken_over(replica)
    announced.announced_at -= 60
    with pytest.raises(LeaseLost):
        await replica.calls.call_leaves(announced, 0.01)


async def test_a_call_that_was_just_announced_is_not_announced_again(
    replica: Replica, announced: Run
) -> None:
    # No replica takes over so soon, and an extra request would cost every call a round trip.
    await taken_over(replica)
    await replica.calls.call_leaves(announced, 0.01)


async def test_a_worker_that_slept_sends_nothing_on_an_old_connection(
    replica: Replica, announced: Run
) -> None:
    await replica.calls.call_leaves(announced, None)
    announced.announced_at -= 60
    with pytest.raises(Recalled):
        await replica.calls.call_leaves(announced, None)


async def test_a_replica_whose_bell_is_silent_reserves_nothing_far_ahead(redis: Redis) -> None:
    quota = parse_quota("q", {"images": "1/s"})
    replica = Replica(redis, quota)
    await replica.installation.batch("b1", 2)
    replica.tasks.append(asyncio.create_task(replica.dispatcher.run()))  # and no listener is left
    await replica.has_started(1)

    async def waits() -> bool:
        return replica.dispatcher.bound == Bound("q", "images")

    await eventually(waits)
    assert await redis.zcard("pixmill:limiter:q:log:images") == 1
    await replica.close()


@pytest.mark.parametrize("cause", ["no work", "no free worker", "stopped"])
async def test_a_dispatcher_that_cannot_use_its_reservation_leaves_it(redis: Redis, cause: str) -> None:
    replica = Replica(redis, parse_quota("q", {"images": "1/h"}))
    dispatcher, log = replica.dispatcher, "pixmill:limiter:q:log:images"
    await replica.limiter.acquire(replica.route.quotas, holder="other", request_id="r", max_wait_s=0)
    for _ in range(2):
        assert isinstance(await dispatcher._next_slot(), Later)
    assert await redis.zcard(log) == 2
    if cause == "stopped":
        await replica.installation.submit({"id": "a", "prompt": "x"})
        task = asyncio.create_task(dispatcher.run())

        async def waits() -> bool:
            return dispatcher.bound == Bound("q", "images")

        await eventually(waits)
        assert await redis.zcard(log) == 2
        task.cancel()
        await asyncio.wait([task])
    else:
        if cause == "no free worker":
            replica.pool.reserve(replica.pool.free)
        await dispatcher._step()
    assert await redis.zcard(log) == 1


async def test_a_replica_that_takes_over_its_own_item_ends_the_old_run_only(
    replica: Replica,
) -> None:
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()
    await replica.has_started(1)
    await replica.reclaimer.sweep()
    await replica.has_started(2)
    old, new = replica.started
    assert int(new.item.epoch) == int(old.item.epoch) + 1
    await replica.heartbeat.beat()
    assert old.task is not None
    await asyncio.wait([old.task])
    assert replica.pool.current() == [new]
    replica.may_end.set()

    async def settled() -> bool:
        return (await replica.installation.record("default//a"))["state"] == "succeeded"

    await eventually(settled)


async def test_the_new_owner_renews_the_lease_of_an_item_taken_over(redis: Redis) -> None:
    quota = parse_quota("q", {"in_flight": 1})
    first, second = Replica(redis, quota), Replica(redis, quota, worker="w2")
    await first.installation.submit({"id": "a", "prompt": "x"})
    first.dispatch()
    await first.has_started(1)
    await second.reclaimer.sweep()
    await second.has_started(1)
    assert second.started[0].permit == first.started[0].permit
    answer = await second.limiter.acquire([quota], holder="w3", request_id="r", max_wait_s=0)
    assert not isinstance(answer, Grant), "the place is still taken"
    await first.heartbeat.beat()
    await second.close()
    answer = await second.limiter.acquire([quota], holder="w3", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    await first.close()


async def test_a_cancel_reaches_a_running_item_by_the_bell_and_by_the_heartbeat(replica: Replica) -> None:
    await replica.installation.submit({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    replica.dispatch()
    await replica.has_started(2)
    await replica.installation.submit({"job": "a"}, type="pixmill.cancel.v1")
    by_bell = next(run for run in replica.started if run.item.uid.endswith("/a"))
    await asyncio.wait_for(by_bell.cancel_requested.wait(), 5)
    await replica.installation.redis.hset("pixmill:item:default//b", "cancel", "1")
    await replica.heartbeat.beat()
    assert all(run.cancel_requested.is_set() for run in replica.started)


async def test_a_drain_waits_for_runs_and_hands_over_the_late_ones(replica: Replica) -> None:
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()
    await replica.has_started(1)
    assert await replica.pool.drain(0.01, lambda: False) == 1
    assert (await replica.installation.record("default//a"))["state"] == "running", "left for the next owner"
    pending = await replica.installation.redis.xpending("pixmill:q:default:normal", "workers")
    assert pending["pending"] == 1


async def test_a_bug_in_a_run_is_a_failed_attempt_and_not_the_end_of_the_daemon(redis: Redis) -> None:
    replica = Replica(redis)

    async def broken(_run: Run) -> Outcome:
        raise RuntimeError("a bug")

    replica.pool.execute = broken
    await replica.installation.submit({"id": "a", "prompt": "x", "max_attempts": 2})
    replica.dispatch()

    async def waits() -> bool:
        return (await replica.installation.record("default//a"))["state"] == "retry_wait"

    await eventually(waits)
    await replica.close()


@pytest.mark.parametrize(
    ("policy", "state"), [("hold", "held"), ("fail", "failed"), ("retry_once", "retry_wait")]
)
async def test_a_bug_after_a_call_that_left_is_an_unknown_outcome(
    redis: Redis, policy: str, state: str
) -> None:
    replica = Replica(redis)

    async def broken(run: Run) -> Outcome:
        await replica.calls.announce(run)
        run.enter(Phase.CALLING)
        await replica.calls.call_leaves(run, None)
        raise RuntimeError("a bug that the answer brought to light")

    replica.pool.execute = broken
    await replica.installation.submit({"id": "a", "prompt": "x", "on_unknown_outcome": policy})
    (item,) = await replica.installation.claim()
    replica.pool.start(item, replica.route, None)

    async def settled() -> bool:
        return (await replica.installation.record("default//a"))["state"] == state

    await eventually(settled)


async def test_a_call_whose_item_is_lost_during_a_late_report_is_not_sent(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(redis, parse_quota("q", {"images": "5/min"}))
    await replica.installation.submit({"id": "a", "prompt": "x"})
    (item,) = await replica.installation.claim()
    answer = await replica.limiter.acquire(replica.route.quotas, holder="w1", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    requested_at = time.monotonic()
    run = Run(item, replica.route, answer.permit, slot_at=requested_at - 60, requested_at=requested_at)
    await replica.calls.announce(run)
    run.enter(Phase.CALLING)

    async def stands_still(*_: object) -> None:
        run.announced_at -= 60
        await replica.installation.other("heir").reclaim("default", "normal", lease_s=0, cursor="0-0")

    monkeypatch.setattr(replica.limiter, "sent_late", stands_still)
    with pytest.raises(LeaseLost):
        await replica.calls.call_leaves(run, 0.01)
    assert run.phase is Phase.CALLING


async def test_after_an_outage_nothing_is_taken_over_for_a_lease(
    redis: Redis,
) -> None:
    replica = Replica(redis, worker="w2")
    server_us = 1_000_000_000_000
    swept: list[int] = []

    async def now_us() -> int:
        return server_us

    async def uptime() -> float:
        return 3600.0

    async def sweep(*, not_after_us: int) -> int:
        swept.append(server_us)
        return 0

    replica.queue.now_us, replica.queue.server_uptime_s = now_us, uptime  # type: ignore[method-assign]  # a clock to turn
    replica.reclaimer.sweep, replica.reclaimer._lease_s = sweep, 10.0  # type: ignore[assignment]  # as above
    steps = [
        0,
        1,
        1,
        8,
        1,
        4,
        4,
        1,
        1,
    ]  # seconds between looks; 8 is a gap in which heartbeats may have failed
    for step in steps:
        server_us += step * 1_000_000
        await replica.reclaimer.watch()
    assert [us - 1_000_000_000_000 for us in swept] == [0, 1_000_000, 2_000_000, 20_000_000, 21_000_000]


async def test_beside_a_server_that_has_just_started_nothing_is_taken_over_at_first(redis: Redis) -> None:
    replica = Replica(redis, worker="w2")
    replica.reclaimer._lease_s = 10.0

    async def uptime() -> float:
        return 2.0

    replica.queue.server_uptime_s = uptime  # type: ignore[method-assign]  # a server to start
    await replica.installation.submit({"id": "a", "prompt": "x"})
    await replica.installation.claim()
    assert await replica.reclaimer.watch() == 0
    assert replica.pool.current() == []


async def test_a_lost_reply_of_the_limiter_is_requested_again_and_charged_once(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(redis, parse_quota("q", {"images": "5/min", "in_flight": 1}))
    real, calls = replica.limiter.acquire, 0

    async def reply_lost(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        answer = await real(*args, **options)
        if calls == 1:
            raise RedisConnectionError("the reply is lost")
        return answer

    monkeypatch.setattr(replica.limiter, "acquire", reply_lost)
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()
    await replica.has_started(1)
    assert await redis.zcard("pixmill:limiter:q:log:images") == 1
    await replica.close()


@pytest.mark.parametrize("cause", ["no work", "no free worker"])
async def test_a_grant_whose_reply_was_lost_is_given_back_when_not_needed(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    replica = Replica(redis, parse_quota("q", {"images": "5/min", "in_flight": 1}))
    real = replica.limiter.acquire

    async def reply_lost(*args: Any, **options: Any) -> Any:
        await real(*args, **options)
        raise RedisConnectionError("the reply is lost")

    with monkeypatch.context() as patched:
        patched.setattr(replica.limiter, "acquire", reply_lost)
        with pytest.raises(RedisConnectionError):
            await replica.dispatcher._next_slot()
    books = [f"pixmill:limiter:q:{book}" for book in ("log:images", "leases")]
    assert [await redis.zcard(book) for book in books] == [1, 1]
    if cause == "no free worker":
        replica.pool.reserve(replica.pool.free)
    await replica.dispatcher._step()
    assert [await redis.zcard(book) for book in books] == [0, 0]


@pytest.mark.parametrize("sent", [True, False])
async def test_a_permit_whose_call_was_never_sent_is_given_back_whole(redis: Redis, sent: bool) -> None:
    replica = Replica(redis, parse_quota("q", {"images": "5/min", "in_flight": 1}))

    async def execute(run: Run) -> Outcome:
        if sent:
            run.enter(Phase.CALLING)
        return Failed({"kind": "input_fetch", "message": "The input is gone."})

    replica.pool.execute = execute
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()

    async def failed() -> bool:
        return (await replica.installation.record("default//a"))["state"] == "failed"

    await eventually(failed)
    assert await redis.zcard("pixmill:limiter:q:log:images") == (1 if sent else 0)
    (state,) = await replica.limiter.snapshot(replica.route.quotas)
    assert state.in_flight == 0
    await replica.close()


async def test_a_settle_whose_reply_is_lost_is_repeated_and_ends_the_item_once(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(redis)
    real, calls = replica.queue.settle, 0

    async def reply_lost(*args: Any) -> str:
        nonlocal calls
        calls += 1
        state = await real(*args)
        if calls == 1:
            raise RedisConnectionError("the reply is lost")
        return state

    monkeypatch.setattr(replica.queue, "settle", reply_lost)
    replica.may_end.set()
    await replica.installation.batch("b1", 1)
    replica.dispatch()

    async def settled_twice() -> bool:
        return calls == 2 and not replica.pool.current()

    await eventually(settled_twice)
    assert len(replica.started) == 1
    assert (await replica.installation.kinds()).count("job.succeeded") == 1
    assert (await replica.installation.group("default/b1"))["state"] == "completed"
    value = replica.installation.metrics.registry.get_sample_value
    assert value("pixmill_duplicate_results_total") == 0
    assert value("pixmill_jobs_finished_total", {"route": "default", "outcome": "succeeded"}) == 1
    await replica.close()


async def started(replica: Replica, *, leaves: bool, task: Submitted | None) -> Run:
    """A run whose item was taken over by another replica."""
    await replica.installation.submit({"id": "a", "prompt": "x"})
    (item,) = await replica.installation.claim()
    replica.pool.start(item, replica.route, None)
    await replica.has_started(1)
    (run,) = replica.started
    if leaves:
        await replica.calls.announce(run)
        await replica.calls.call_leaves(run, None)
    run.submitted = task
    await replica.installation.other("w2").reclaim("default", "normal", lease_s=0, cursor="0-0")
    return run


async def test_a_call_that_has_left_is_waited_for_although_the_item_is_lost(replica: Replica) -> None:
    run = await started(replica, leaves=True, task=None)
    for _ in range(3):
        await replica.heartbeat.beat()
    assert run.task is not None
    assert not run.task.cancelling()
    replica.may_end.set()
    await run.task
    assert replica.installation.metrics.duplicate_results._value.get() == 1
    assert (await replica.installation.record("default//a"))["state"] == "running", "as its new owner has it"


@pytest.mark.parametrize(("leaves", "task"), [(False, None), (True, Submitted("task-1"))])
async def test_a_run_with_nothing_to_wait_for_stops_when_its_item_is_lost(
    replica: Replica, leaves: bool, task: Submitted | None
) -> None:
    run = await started(replica, leaves=leaves, task=task)
    await replica.heartbeat.beat()
    assert run.task is not None
    await asyncio.wait([run.task], timeout=5)
    assert run.task.cancelled()
