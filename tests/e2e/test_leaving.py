"""A replica that leaves renews its leases until its last item is settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Command, SimulatorProcess, wait_until
from tests.e2e.test_fleet import CONFIG, Fleet
from tests.servers import RedisServer

ITEMS = 8
# Long enough for a busy machine, where a replica without CPU for a whole lease counts as dead.
SLOW = CONFIG.replace('lease = "1s"', 'lease = "3s"').replace(
    'drain_timeout = "10s"', 'drain_timeout = "19s"'
)


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer) -> Iterator[Fleet]:
    # A call takes more than two leases, and there is room for all of them at once.
    simulator = SimulatorProcess(tmp_path, "--plain", "--latency", "8-8")
    fleet = Fleet(tmp_path, redis_server, simulator, "in_flight = 16", SLOW)
    yield fleet
    fleet.close()


def owned(fleet: Fleet, replica: Command) -> int:
    """How many items a replica runs or has run."""
    keys = [f"pixmill:item:default/b1/i{number}" for number in range(ITEMS)]
    workers = [(fleet.redis.hget(key, "worker") or b"").decode() for key in keys]
    return sum(f"-{replica.process.pid}-" in worker for worker in workers)


@pytest.mark.timeout(180)
def test_no_replica_takes_over_the_running_items_of_a_leaving_one(fleet: Fleet) -> None:
    replicas = fleet.start(2)
    fleet.submit_batch("b1", ITEMS)
    wait_until(lambda: fleet.simulator.ledger()["calls"] == ITEMS, 20)
    # One of them may have been quicker each time.
    staying, leaving = sorted(replicas, key=lambda each: owned(fleet, each))
    own = owned(fleet, leaving)
    assert leaving.stop() == 0, "everything was settled"
    assert fleet.wait_finished("b1") == "completed"
    assert own >= ITEMS / 2, "it had something to finish"
    assert owned(fleet, leaving) == own
    assert fleet.simulator.ledger()["calls"] == ITEMS, "no call was made twice"
    assert "took over" not in staying.output
