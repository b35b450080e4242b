"""The pool: its slots, cancels, drains, bugs and settles."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from daemon.telemetry.logs import WORK
from daemon.worker.run import Phase, Run
from tests.daemon.harness import eventually
from tests.daemon.worker.bare_replica import DONE, Replica


async def test_no_more_items_run_than_slots_and_a_free_slot_is_used_at_once(
    replica: Replica,
) -> None:
    await replica.installation.batch("b1", 9)
    replica.dispatch()
    await replica.has_started(4)
    assert replica.pool.free == 0
    value = replica.installation.metrics.registry.get_sample_value
    assert value("pixmill_in_flight") == 4
    assert len(await replica.installation.claim(9)) == 5, "the others are still in the queue"
    replica.may_end.set()

    async def idle() -> bool:
        return value("pixmill_in_flight") == 0

    await eventually(idle)


async def test_every_item_of_a_busy_queue_is_run_and_settled(replica: Replica) -> None:
    replica.may_end.set()
    await replica.installation.batch("b1", 200)
    replica.dispatch()

    async def completed() -> bool:
        return (await replica.installation.group("default/b1"))["state"] == "completed"

    await eventually(completed)


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


async def test_a_bug_in_a_run_is_a_failed_attempt_and_not_the_end_of_the_daemon(
    replica: Replica,
) -> None:
    async def broken(_run: Run) -> Outcome:
        raise RuntimeError("a bug")

    replica.pool.execute = broken
    await replica.installation.submit({"id": "a", "prompt": "x", "max_attempts": 2})
    replica.dispatch()
    await replica.has_state("retry_wait")


async def test_a_lack_of_this_machine_costs_an_item_no_attempt(replica: Replica) -> None:
    async def starved(_run: Run) -> Outcome:
        raise OSError(errno.EMFILE, "Too many open files")

    replica.pool.execute = starved
    await replica.installation.submit({"id": "a", "prompt": "x", "max_attempts": 1})
    replica.dispatch()
    await replica.has_state("throttled")
    assert (await replica.installation.record("default//a"))["attempts"] == "0"


@pytest.mark.parametrize(
    ("policy", "state"), [("hold", "held"), ("fail", "failed"), ("retry_once", "retry_wait")]
)
async def test_a_bug_after_a_call_that_left_is_an_unknown_outcome(
    replica: Replica, policy: str, state: str
) -> None:
    async def broken(run: Run) -> Outcome:
        await replica.calls.note_intent(run)
        run.enter(Phase.CALLING)
        await replica.calls.call_leaves(run, None)
        raise RuntimeError("a bug that the answer brought to light")

    replica.pool.execute = broken
    await replica.installation.submit({"id": "a", "prompt": "x", "on_unknown_outcome": policy})
    (item,) = await replica.installation.claim()
    replica.pool.start(item, replica.route, None)
    await replica.has_state(state)


async def test_a_settle_whose_reply_is_lost_is_repeated_and_ends_the_item_once(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = replica.queue.settle_report, 0

    async def reply_lost(*args: Any) -> str:
        nonlocal calls
        calls += 1
        state = await real(*args)
        if calls == 1:
            raise RedisConnectionError("the reply is lost")
        return state

    monkeypatch.setattr(replica.queue, "settle_report", reply_lost)
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


async def test_a_run_names_its_item_to_the_log(replica: Replica) -> None:
    named: list[Claimed | None] = []

    async def execute(run: Run) -> Outcome:
        named.append(WORK.get())
        return DONE

    replica.pool.execute = execute
    item = await replica.claimed()
    replica.pool.start(item, replica.route, None)
    await replica.has_state("succeeded")
    assert named == [item]
    assert WORK.get() is None
