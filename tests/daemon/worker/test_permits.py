"""The permits of calls: recalled, late, given back, or left to their leases."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from daemon.queue.outcomes import Failed, Outcome, Unknown
from daemon.worker.permits import FIRST_LEAD_S, LONGEST_LEAD_S, PREPARATIONS
from daemon.worker.run import Phase, Recalled, Run
from providers.base import Submitted
from tests.daemon.harness import eventually
from tests.daemon.worker.bare_replica import Replica
from tests.daemon.worker.conftest import MakeReplica


@pytest.mark.parametrize("change", ["pause", "cut"])
async def test_a_permit_that_is_recalled_after_the_claim_sends_nothing(
    replica_of: MakeReplica, change: str
) -> None:
    replica = replica_of(images="5/min", in_flight=3)
    replica.tasks.append(asyncio.create_task(replica.bell.run()))
    await eventually(replica.listening)
    requested_at = time.monotonic()
    permit = await replica.granted()
    if change == "pause":
        await replica.limiter.pause("q", "stop")
    else:
        await replica.limiter.penalise(replica.route.quotas[0], retry_after_s=60, reason="429")
    item = await replica.claimed()
    run = Run(item, replica.route, permit, slot_at=requested_at, requested_at=requested_at)

    async def called_back() -> bool:
        try:
            await replica.calls.call_begins(run)
        except Recalled:
            return True
        return False

    await eventually(called_back)
    await replica.calls.call_ended(run)
    (state,) = await replica.limiter.snapshot(replica.route.quotas)
    assert state.in_flight == 0
    assert await replica.charges("log:images") == 0


async def test_a_permit_that_is_recalled_during_a_late_report_sends_nothing(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of(images="5/min")
    requested_at = time.monotonic()
    permit = await replica.granted()

    async def retime(*_: object, **__: object) -> bool:
        replica.bell.recalls.note("quota q")
        return True

    monkeypatch.setattr(replica.limiter, "retime", retime)
    item = await replica.claimed()
    run = Run(item, replica.route, permit, slot_at=requested_at - 60, requested_at=requested_at)
    with pytest.raises(Recalled):
        await replica.calls.call_begins(run)


async def _early(replica: Replica, *, intent: bool = True) -> Run:
    """A run that has prepared its call an hour before its slot."""
    requested_at = time.monotonic()
    permit = await replica.granted()
    slot_at = time.monotonic() + 3600
    item = await replica.claimed()
    run = Run(item, replica.route, permit, slot_at=slot_at, leaves_at=slot_at, requested_at=requested_at)
    if intent:
        await replica.calls.note_intent(run)
        run.enter(Phase.CALLING)
    return run


async def test_a_prepared_call_leaves_no_earlier_than_its_slot(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of(images="5/min")
    run = await _early(replica)
    slept: list[float] = []

    async def sleep(_permit: object, _requested_at: float, until: float) -> bool:
        slept.append(until)
        assert run.phase is Phase.CALLING
        return True

    monkeypatch.setattr(replica.bell.recalls, "sleep", sleep)
    await replica.calls.call_leaves(run, None)
    assert slept == [run.leaves_at]
    assert run.phase is Phase.LEFT


async def test_a_prepared_call_is_recalled_before_its_slot(replica_of: MakeReplica) -> None:
    replica = replica_of(images="5/min")
    run = await _early(replica)
    leaving = asyncio.create_task(replica.calls.call_leaves(run, None))
    await asyncio.sleep(0)
    replica.bell.recalls.note("quota q")
    with pytest.raises(Recalled):
        await leaving
    assert run.phase is Phase.CALLING


async def test_items_start_early_by_the_longest_of_the_latest_preparations(replica_of: MakeReplica) -> None:
    replica = replica_of(images="5/min")
    name, calls = replica.route.name, replica.calls
    assert calls.lead_s(name) == FIRST_LEAD_S
    run = await _early(replica)
    run.leaves_at = 0.0

    async def prepared(ready_s: float) -> float:
        run.started_at = time.monotonic() - ready_s
        await calls.slot_nears(run)
        await calls.note_intent(run)
        run.phase = Phase.CALLING
        await calls.call_leaves(run, None)
        return calls.lead_s(name)

    for ready_s, lead_s in [(0.2, 0.2), (0.01, 0.2), (60.0, LONGEST_LEAD_S)]:
        assert await prepared(ready_s) == pytest.approx(lead_s, abs=0.05)
    assert [await prepared(0) for _ in range(PREPARATIONS)][-1] < 0.2, "the slow ones are forgotten"
    assert calls.lead_s("another route") == FIRST_LEAD_S


async def test_before_the_slot_is_near_no_intent_is_written_and_a_recall_ends_the_wait(
    replica_of: MakeReplica,
) -> None:
    replica = replica_of(images="5/min")
    run = await _early(replica, intent=False)
    waiting = asyncio.create_task(replica.calls.slot_nears(run))
    await asyncio.sleep(0)
    assert not waiting.done()
    replica.bell.recalls.note("quota q")
    with pytest.raises(Recalled):
        await waiting
    assert not run.sent


async def test_a_call_whose_last_byte_is_late_is_counted_from_then_on(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of(images="5/min")
    permit = await replica.granted()
    reported: list[object] = []
    away = asyncio.Event()

    async def retime(permit: object, _quotas: object, *, sent: bool) -> bool:
        await away.wait()
        assert sent
        reported.append(permit)
        return True

    monkeypatch.setattr(replica.limiter, "retime", retime)
    item = await replica.claimed()
    run = Run(item, replica.route, permit, slot_at=time.monotonic() + 60)
    replica.calls.call_sent(run)
    run.slot_at = time.monotonic() - 60
    with capture_logs() as logs:
        for _ in range(2):
            replica.calls.call_sent(run)
    away.set()
    (line,) = logs
    assert (line["event"], line["item"]) == ("a call left late", item.uid)
    assert line["late_s"] >= 60

    async def reported_once() -> bool:
        return reported == [permit]

    await eventually(reported_once)
    await replica.close()
    assert reported == [permit], "not when it was in time, and once when it was not"


@pytest.mark.parametrize(
    ("begun", "kind", "left"),
    [(True, "input_fetch", 1), (False, "input_fetch", 0), (True, "network_unsent", 0)],
)
async def test_a_permit_whose_call_was_never_sent_is_given_back_whole(
    replica_of: MakeReplica, begun: bool, kind: str, left: int
) -> None:
    replica = replica_of(images="5/min", in_flight=1)

    async def execute(run: Run) -> Outcome:
        if begun:
            run.enter(Phase.CALLING)
        return Failed({"kind": kind, "message": "It failed.", "charged": "no"})

    replica.pool.execute = execute
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()
    await replica.has_state("failed")
    assert await replica.charges("log:images") == left
    assert await replica.charges("leases") == 0
    counted = [name for name in await replica.installation.record("default//a") if name.startswith("calls_")]
    assert len(counted) == left


@pytest.mark.parametrize(("task", "left"), [(None, 1), (Submitted("t"), 0)])
async def test_the_place_of_an_unanswered_call_ends_with_its_lease_alone(
    replica_of: MakeReplica, task: Submitted | None, left: int
) -> None:
    replica = replica_of(in_flight=2)

    async def lost(run: Run) -> Outcome:
        run.enter(Phase.CALLING)
        run.submitted = task
        return Unknown({"kind": "ambiguous_submit", "charged": "maybe"})

    replica.pool.execute = lost
    await replica.installation.submit({"id": "a", "prompt": "x", "on_unknown_outcome": "hold"})
    replica.dispatch()
    await replica.has_state("held")
    assert await replica.charges("leases") == left


async def test_the_place_of_a_dead_workers_unanswered_call_is_not_freed(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=1)
    permit = await replica.granted("w0")
    item = await replica.claimed()
    item = replace(item, intent_us=time.time_ns() // 1000)
    await replica.calls.call_ended(Run(item, replica.route, permit, adopted=True))
    assert await replica.charges("leases") == 1, "it may still run; the lease ends by itself"
    await replica.calls.call_ended(
        Run(replace(item, receipt=b'{"task_id":"t"}'), replica.route, permit, adopted=True)
    )
    assert await replica.charges("leases") == 0


@pytest.mark.parametrize(("intent_us", "left"), [(None, 0), (1, 1)])
async def test_the_permit_of_a_call_without_an_intent_is_given_back_whole(
    replica_of: MakeReplica, intent_us: int | None, left: int
) -> None:
    replica = replica_of(images="5/min", in_flight=1)
    permit = await replica.granted("w0")
    item = await replica.claimed()
    orphan = Run(replace(item, intent_us=intent_us), replica.route, permit, adopted=True)
    await replica.calls.call_ended(orphan)
    for book in ("leases", "log:images"):
        assert await replica.charges(book) == left
