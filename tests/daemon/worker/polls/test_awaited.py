"""A task is awaited by a person, by an item without a place, or by nobody."""

from __future__ import annotations

from typing import Any

from daemon.worker.polls.awaited import Awaited
from daemon.worker.run import Run
from pixmill.contract import Job
from tests.daemon.harness import eventually
from tests.daemon.worker.bare_replica import Replica
from tests.daemon.worker.conftest import MakeReplica


def is_awaited(replica: Replica, run: Run, **fields: Any) -> bool:
    job = Job.model_validate({"id": "a", "prompt": "x", **fields})
    return Awaited({"default": replica.dispatcher})(run, job)


async def running(replica: Replica, items: int) -> Run:
    await replica.installation.batch("b1", items)
    replica.dispatch()
    await replica.has_started(1)
    return replica.started[0]


async def test_an_item_waits_for_the_place_of_a_running_one(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=1)
    run = await running(replica, 2)

    async def noticed() -> bool:
        return is_awaited(replica, run)

    await eventually(noticed)


async def test_nobody_waits_for_the_last_item_of_a_batch(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=1)
    run = await running(replica, 1)

    async def idle() -> bool:
        return replica.dispatcher.bound is None and replica.dispatcher.looked_at is not None

    await eventually(idle)
    assert not is_awaited(replica, run)


async def test_a_person_waits_for_a_job_of_its_own_and_for_the_lane_high(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=1)
    run = await running(replica, 1)
    assert is_awaited(replica, run, priority="high")
    await replica.installation.submit({"id": "alone", "prompt": "x"})
    (item,) = await replica.installation.claim()
    assert is_awaited(replica, Run(item, replica.route, None))


async def test_an_item_that_waits_for_another_account_hurries_no_task(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=1)
    run = await running(replica, 2)

    async def bound() -> bool:
        return replica.dispatcher.lacks_place({"q"})

    await eventually(bound)
    assert not replica.dispatcher.lacks_place({"other"})
    assert is_awaited(replica, run)


async def test_a_full_replica_without_waiting_work_waits_for_no_worker(replica_of: MakeReplica) -> None:
    replica = replica_of(in_flight=100)
    run = await running(replica, replica.pool.free)

    async def full() -> bool:
        return not replica.pool.free

    await eventually(full)
    looked_at = replica.dispatcher.looked_at

    async def looked_again() -> bool:
        replica.bell.ring_all()
        return replica.dispatcher.looked_at != looked_at and replica.dispatcher.bound is None

    await eventually(looked_again)
    assert not is_awaited(replica, run)
    await replica.installation.batch("b2", 1)

    async def waits() -> bool:
        return is_awaited(replica, run)

    await eventually(waits)
