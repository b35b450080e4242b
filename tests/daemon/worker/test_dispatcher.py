"""The dispatcher: permits before claims, and no permit or reservation that it cannot use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.accounts.routes import FORGOTTEN_S, LONGEST_PAUSE_S, Reach
from daemon.queue.messages import Claim
from daemon.queue.outcomes import Failed, Outcome
from daemon.queue.pauses import Pause
from daemon.queue.steps import MOST
from daemon.worker.retry_policy import RetryPolicy
from daemon.worker.run import Phase, Run
from limiter import Bound, Later, Permit, Slots
from providers.errors import ErrorKind, ProviderError
from tests.daemon.harness import eventually
from tests.daemon.worker.bare_replica import DONE, Replica
from tests.daemon.worker.conftest import MakeReplica


async def test_a_job_without_a_permit_stays_in_its_queue_and_holds_no_slot(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=2)
    await replica.installation.batch("b1", 5)
    replica.dispatch()
    await replica.has_started(2)

    async def waits() -> bool:
        return replica.dispatcher.bound == Bound("q", "in_flight") and replica.pool.free == 2

    await eventually(waits)
    group = await replica.installation.group("default/b1")
    assert (group["queued"], group["running"]) == ("3", "2")


async def test_a_freed_lease_starts_the_next_item(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=2)
    await replica.installation.batch("b1", 6)
    replica.dispatch()
    await replica.has_started(2)
    replica.may_end.set()
    await replica.has_started(6)


async def test_an_ended_call_is_released_with_the_request_for_the_next_one(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of(in_flight=1)
    real, alone = replica.limiter.release, 0

    async def release(permit: Permit) -> bool:
        nonlocal alone
        alone += 1
        return await real(permit)

    monkeypatch.setattr(replica.limiter, "release", release)
    await replica.installation.batch("b1", 4)
    replica.dispatch()

    async def waits() -> bool:
        return any(wait.rests for wait in replica.bell.places._waits.values())

    for started in range(1, 4):
        await replica.has_started(started)
        await eventually(waits)
        replica.may_end.set()
        replica.may_end.clear()
        await replica.has_started(started + 1)
        assert alone == 0
    replica.may_end.set()

    async def free() -> bool:
        return await replica.charges("leases") == 0

    await eventually(free)
    assert alone == 1, "nothing waits any more"


async def test_the_routes_of_a_worker_wait_for_a_place_each_by_itself(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=1)
    await replica.granted("other")
    names = ("default", "second")
    for name in names:
        slots = Slots(replica.limiter, replica.bell.recalls, replica.queue.worker, name, replica.bell.places)
        assert isinstance(await slots.request(replica.route.quotas, horizon_s=0), Later)
    line = await replica.installation.redis.hkeys("pixmill:limiter:q:waiting")
    assert sorted(line) == [f"w1/{name}".encode() for name in names]


async def test_an_item_starts_before_its_slot(replica_of: MakeReplica) -> None:
    replica = replica_of(images="1/s")
    replica.calls._leads[replica.route.name].whole_s.append(0.4)
    await replica.installation.batch("b1", 2)
    replica.dispatch()
    await replica.has_started(2)
    first, run = replica.started
    assert run.started_at < run.leaves_at
    assert first.permit is not None
    assert run.permit is not None
    assert run.permit.slot_us >= first.permit.slot_us + 1_000_000


async def test_a_permit_that_finds_no_work_is_given_back(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=2)
    replica.dispatcher._more_waits = True  # as after a claim that another replica was faster to follow
    await replica.dispatcher._step()
    (state,) = await replica.limiter.snapshot(replica.route.quotas)
    assert state.in_flight == 0


async def test_a_dispatcher_that_is_stopped_gives_its_slot_back(
    redis: Redis, replica_of: MakeReplica
) -> None:
    replica = replica_of(images="1/s")
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
    replica_of: MakeReplica,
) -> None:
    replica = replica_of(images="1/s")
    await replica.installation.batch("b1", 2)
    replica.dispatch()
    await replica.has_started(1)

    async def reserved() -> bool:
        return int(await replica.charges("log:images")) == 2

    await eventually(reserved)
    refused = replica.started[0].permit
    await replica.limiter.penalise(replica.route.quotas[0], retry_after_s=2.5, reason="429", permit=refused)
    await replica.has_started(2)
    permits = [run.permit for run in replica.started]
    first, second = (permit for permit in permits if permit is not None)
    assert second.granted_us > first.granted_us
    assert second.slot_us - first.slot_us >= 2_500_000


async def test_a_dispatcher_that_slept_past_its_slot_requests_another(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of(in_flight=1)
    await replica.installation.batch("b1", 1)
    slept_s = iter((60.0, 0.0))

    async def woke(_permit: Permit, _requested_at: float, _until: float) -> bool:
        now = time.monotonic() + next(slept_s)
        monkeypatch.setattr(replica.bell.recalls, "clock", lambda: now)
        return True

    monkeypatch.setattr(replica.bell.recalls, "sleep", woke)
    monkeypatch.setattr(
        replica.pool, "connecting_s", lambda _route: -1.0
    )  # no slot is near enough to start at once
    await replica.dispatcher._step()
    monkeypatch.undo()
    assert replica.started == []
    assert await replica.charges("leases") == 0, "its place may have been given to another one"
    await replica.dispatcher._step()
    await replica.has_started(1)


async def test_a_replica_whose_bell_is_silent_reserves_nothing_far_ahead(replica_of: MakeReplica) -> None:
    replica = replica_of(images="1/s")
    await replica.installation.batch("b1", 2)
    replica.tasks.append(asyncio.create_task(replica.dispatcher.run()))  # and no listener is left
    await replica.has_started(1)

    async def waits() -> bool:
        return replica.dispatcher.bound == Bound("q", "images")

    await eventually(waits)
    assert await replica.charges("log:images") == 1


@pytest.mark.parametrize("cause", ["no work", "no free worker", "stopped"])
async def test_a_dispatcher_that_cannot_use_its_reservation_leaves_it(
    replica_of: MakeReplica, cause: str
) -> None:
    replica = replica_of(images="1/h")
    dispatcher = replica.dispatcher
    await replica.granted("other")
    for _ in range(2):
        assert isinstance(await dispatcher._requested(), Later)
    assert await replica.charges("log:images") == 2
    if cause == "stopped":
        await replica.installation.submit({"id": "a", "prompt": "x"})
        task = asyncio.create_task(dispatcher.run())

        async def waits() -> bool:
            return dispatcher.bound == Bound("q", "images")

        await eventually(waits)
        assert await replica.charges("log:images") == 2
        task.cancel()
        await asyncio.wait([task])
    else:
        if cause == "no free worker":
            replica.pool.reserve(replica.pool.free)
        await dispatcher._step()
    assert await replica.charges("log:images") == 1


async def test_a_lost_reply_of_the_limiter_is_requested_again_and_charged_once(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of(images="5/min", in_flight=1)
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
    assert await replica.charges("log:images") == 1


@pytest.mark.parametrize("cause", ["no work", "no free worker"])
async def test_a_grant_whose_reply_was_lost_is_given_back_when_not_needed(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    replica = replica_of(images="5/min", in_flight=1)
    real = replica.limiter.acquire

    async def reply_lost(*args: Any, **options: Any) -> Any:
        await real(*args, **options)
        raise RedisConnectionError("the reply is lost")

    with monkeypatch.context() as patched:
        patched.setattr(replica.limiter, "acquire", reply_lost)
        with pytest.raises(RedisConnectionError):
            await replica.dispatcher._requested()
    books = ("log:images", "leases")
    assert [await replica.charges(book) for book in books] == [1, 1]
    if cause == "no free worker":
        replica.pool.reserve(replica.pool.free)
    await replica.dispatcher._step()
    assert [await replica.charges(book) for book in books] == [0, 0]


@pytest.mark.parametrize("limits", [{}, {"in_flight": 8}], ids=["without a quota", "with a quota"])
async def test_while_a_provider_cannot_be_reached_one_item_tries_and_none_loses_an_attempt(
    replica_of: MakeReplica, limits: dict[str, Any]
) -> None:
    replica, now, away, tried = replica_of(**limits), [0.0], [True], []
    replica.route.reach = Reach(clock=lambda: now[0], pause_s=lambda _failures, _longest_s: 60.0)
    policy = RetryPolicy(AsyncMock(), replica.installation.metrics)

    async def call(run: Run) -> Outcome:
        tried.append(run.item.uid)
        await replica.calls.note_intent(run)
        run.enter(Phase.CALLING)
        if away[0]:
            return await policy.outcome(ProviderError(ErrorKind.NETWORK_UNSENT, "Nobody is there."), run)
        await replica.calls.call_leaves(run, None)
        return DONE

    replica.pool.execute = call
    await replica.installation.submit(
        *({"id": f"j{number}", "prompt": "x", "max_attempts": 1} for number in range(5))
    )
    replica.dispatch()

    async def waits() -> bool:
        return not replica.pool.current() and replica.dispatcher.bound == "provider:scripted unreachable"

    async def has_tried(count: int) -> None:
        async def enough() -> bool:
            return len(tried) >= count

        await eventually(enough)

    for _ in range(3):
        await eventually(waits)
        before = len(tried)
        now[0] += 60
        await has_tried(before + 1)
        await eventually(waits)
        assert len(tried) == before + 1, "one at a time"
    kinds = await replica.installation.kinds()
    assert kinds.count("provider.unreachable") == 1
    assert "job.failed" not in kinds
    away[0] = False
    now[0] += 60

    async def all_done() -> bool:
        kinds = await replica.installation.kinds()
        return kinds.count("job.succeeded") == 5 and "provider.reachable" in kinds

    await eventually(all_done)


async def test_an_idle_route_does_not_stay_unreachable_for_ever(replica: Replica) -> None:
    now = [0.0]
    replica.route.reach = reach = Reach(clock=lambda: now[0])
    reach.failed("Nobody is there.")
    replica.dispatch()

    async def reported(kind: str) -> None:
        async def there() -> bool:
            return kind in await replica.installation.kinds()

        await eventually(there)

    await reported("provider.unreachable")
    now[0] += LONGEST_PAUSE_S + FORGOTTEN_S
    await reported("provider.reachable")


async def test_an_item_that_is_too_late_to_try_gives_its_turn_to_the_next(replica: Replica) -> None:
    now, tried = [0.0], []
    replica.route.reach = reach = Reach(clock=lambda: now[0])
    reach.failed("Nobody is there.")
    now[0] += LONGEST_PAUSE_S

    async def too_late(run: Run) -> Outcome:
        tried.append(run.item.uid)
        return Failed({"kind": "deadline", "message": "Its deadline passed before the call was sent."})

    replica.pool.execute = too_late
    await replica.installation.batch("b1", 3)
    replica.dispatch()

    async def all_tried() -> bool:
        return len(tried) == 3

    await eventually(all_tried)
    assert reach.lost, "none of them reached the provider"


async def test_a_claim_that_fails_gives_its_turn_to_the_next(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    replica.route.reach = reach = Reach(clock=lambda: now[0])
    reach.failed("Nobody is there.")
    now[0] += LONGEST_PAUSE_S

    async def away(*_: object, **__: object) -> None:
        raise RedisConnectionError("away")

    monkeypatch.setattr(replica.queue, "claim", away)
    with pytest.raises(RedisConnectionError):
        await replica.dispatcher._start(1, None)
    assert reach.wait_s == 0


async def test_the_end_of_a_run_without_the_turn_lets_no_second_call_try(replica: Replica) -> None:
    now = [0.0]
    replica.route.reach = reach = Reach(clock=lambda: now[0])
    await replica.claimed()
    await replica.reclaimer.sweep()
    await replica.has_started(1)
    reach.failed("Nobody is there.")
    now[0] += LONGEST_PAUSE_S
    assert reach.take_turn()
    replica.may_end.set()
    await replica.has_state("succeeded")
    await eventually(lambda: asyncio.sleep(0, not replica.pool.current()))
    assert reach.wait_s > 0


async def claims_of_a_row(
    replica: Replica, calm_after_first_s: Callable[[asyncio.Task[None]], float]
) -> list[int]:
    """How many items had started at each claim of one row, where all slots are taken after three."""
    replica.pool.slots = 3 * MOST
    await replica.installation.batch("b1", 5 * MOST)
    started = list[int]()
    real = replica.queue.claim

    async def claim(*given: Any, **named: Any) -> Claim:
        started.append(len(replica.started))
        reply = await real(*given, **named)
        return reply._replace(calm_s=calm_after_first_s(row) if len(started) == 1 else 0.0)

    replica.queue.claim = claim  # type: ignore[method-assign]  # counts what has started
    row = asyncio.create_task(replica.dispatcher._step())
    await asyncio.wait([row])
    replica.may_end.set()
    return started


async def test_the_next_items_are_claimed_before_the_last_ones_run(replica_of: MakeReplica) -> None:
    replica = replica_of()
    first, second, third = await claims_of_a_row(replica, lambda _: 0.0)
    assert (first, second) == (0, 0)
    assert third <= MOST
    await replica.has_started(3 * MOST)


@pytest.mark.parametrize(
    "reason", ["its end", "an operator's pause", "the store", "the provider", "a restart of redis"]
)
async def test_no_claim_follows_where_a_row_is_held(replica_of: MakeReplica, reason: str) -> None:
    replica = replica_of()
    dispatcher = replica.dispatcher

    def hold(row: asyncio.Task[None]) -> float:
        match reason:
            case "its end":
                row.cancel()
            case "an operator's pause":
                dispatcher._paused = lambda _: Pause("fleet", "")
            case "the store":
                dispatcher._gate.why = "full"
            case "the provider":
                replica.route.reach.failed("nothing listens there")
            case _:
                return 60.0
        return 0.0

    assert await claims_of_a_row(replica, hold) == [0]
