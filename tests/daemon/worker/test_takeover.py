"""Items that change their owner: what the former run may still do, and what the new one gets."""

from __future__ import annotations

import asyncio
import time

import pytest

from daemon.queue.messages import LeaseLost
from daemon.worker.run import Phase, Recalled, Run
from limiter import Grant
from providers.base import Submitted
from tests.daemon.worker.bare_replica import Replica
from tests.daemon.worker.conftest import MakeReplica


@pytest.fixture
async def intended(replica: Replica) -> Run:
    item = await replica.claimed()
    run = Run(item, replica.route, None)
    await replica.calls.note_intent(run)
    run.enter(Phase.CALLING)
    return run


async def test_a_call_is_not_sent_after_its_item_was_taken_over_in_a_stall(
    replica: Replica, intended: Run
) -> None:
    intended.intent_noted_at -= 60
    await replica.calls.call_leaves(intended, 0.01)
    await replica.taken_over()
    intended.intent_noted_at -= 60
    with pytest.raises(LeaseLost):
        await replica.calls.call_leaves(intended, 0.01)


async def test_a_call_whose_intent_is_fresh_does_not_note_it_again(replica: Replica, intended: Run) -> None:
    # No replica takes over so soon, and an extra request would cost every call a round trip.
    await replica.taken_over()
    await replica.calls.call_leaves(intended, 0.01)


async def test_a_worker_that_slept_sends_nothing_on_an_old_connection(
    replica: Replica, intended: Run
) -> None:
    await replica.calls.call_leaves(intended, None)
    intended.intent_noted_at -= 60
    with pytest.raises(Recalled):
        await replica.calls.call_leaves(intended, None)


async def test_a_call_whose_item_is_lost_during_a_late_report_is_not_sent(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of(images="5/min")
    item = await replica.claimed()
    permit = await replica.granted()
    requested_at = time.monotonic()
    run = Run(item, replica.route, permit, slot_at=requested_at - 60, requested_at=requested_at)
    await replica.calls.note_intent(run)
    run.enter(Phase.CALLING)

    async def stands_still(*_: object, **__: object) -> bool:
        run.intent_noted_at -= 60
        await replica.taken_over()
        return True

    monkeypatch.setattr(replica.limiter, "retime", stands_still)
    with pytest.raises(LeaseLost):
        await replica.calls.call_leaves(run, 0.01)
    assert run.phase is Phase.CALLING


async def started(replica: Replica, *, leaves: bool, task: Submitted | None) -> Run:
    """A run whose item was taken over by another replica."""
    item = await replica.claimed()
    replica.pool.start(item, replica.route, None)
    await replica.has_started(1)
    (run,) = replica.started
    if leaves:
        await replica.calls.note_intent(run)
        await replica.calls.call_leaves(run, None)
    run.submitted = task
    await replica.taken_over()
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


async def test_a_replica_that_takes_over_its_own_item_ends_the_old_run_only(
    replica: Replica,
) -> None:
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()
    await replica.has_started(1)
    await replica.reclaimer.sweep()
    await replica.has_started(2)
    old, new = replica.started
    assert int(new.item.epoch) > int(old.item.epoch)
    await replica.heartbeat.beat()
    assert old.task is not None
    await asyncio.wait([old.task])
    assert replica.pool.current() == [new]
    replica.may_end.set()
    await replica.has_state("succeeded")


async def test_the_new_owner_renews_the_lease_of_an_item_taken_over(replica_of: MakeReplica) -> None:
    first, second = replica_of(in_flight=1), replica_of(in_flight=1, worker="w2")
    quotas = first.route.quotas
    # An item with an input has no intent before that is fetched.
    await first.installation.submit(
        {"id": "a", "prompt": "x", "inputs": [{"url": "https://pictures.example/a.png"}]}
    )
    first.dispatch()
    await first.has_started(1)
    await second.reclaimer.sweep()
    await second.has_started(1)
    assert second.started[0].permit == first.started[0].permit
    answer = await second.limiter.acquire(quotas, holder="w3", request_id="r", max_wait_s=0)
    assert not isinstance(answer, Grant), "the place is still taken"
    await first.heartbeat.beat()
    await second.close()
    answer = await second.limiter.acquire(quotas, holder="w3", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)


async def test_after_an_outage_nothing_is_taken_over_for_a_lease(
    replica_of: MakeReplica,
) -> None:
    replica = replica_of(worker="w2")
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
    # 8 is a gap in which heartbeats may have failed.
    for since_last_look_s in (0, 1, 1, 8, 1, 4, 4, 1, 1):
        server_us += since_last_look_s * 1_000_000
        await replica.reclaimer.watch()
    assert [us - 1_000_000_000_000 for us in swept] == [0, 1_000_000, 2_000_000, 20_000_000, 21_000_000]


async def test_beside_a_server_that_has_just_started_nothing_is_taken_over_at_first(
    replica_of: MakeReplica,
) -> None:
    replica = replica_of(worker="w2")
    replica.reclaimer._lease_s = 10.0

    async def uptime() -> float:
        return 2.0

    replica.queue.server_uptime_s = uptime  # type: ignore[method-assign]  # a server to start
    await replica.installation.submit({"id": "a", "prompt": "x"})
    await replica.installation.claim()
    assert await replica.reclaimer.watch() == 0
    assert replica.pool.current() == []
