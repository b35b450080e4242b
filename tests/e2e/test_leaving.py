"""A replica that leaves keeps its leases until its last item is settled, also when that takes several of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import SimulatorProcess, wait_until
from tests.e2e.test_fleet import CONFIG, Fleet
from tests.servers import RedisServer

ITEMS = 8
# Long enough for a busy machine: a replica that it leaves without CPU for a lease is lawfully taken for dead.
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


def owners(fleet: Fleet) -> list[str]:
    keys = [f"pixmill:item:default/b1/i{number}" for number in range(ITEMS)]
    return [(fleet.redis.hget(key, "worker") or b"").decode() for key in keys]


@pytest.mark.timeout(180)
def test_what_a_leaving_replica_still_runs_is_taken_over_by_nobody(fleet: Fleet) -> None:
    leaving, staying = fleet.start(2)
    fleet.submit_batch("b1", ITEMS)
    wait_until(lambda: fleet.simulator.ledger()["calls"] == ITEMS, 20)
    own = sum(f"-{leaving.process.pid}-" in worker for worker in owners(fleet))
    assert leaving.stop() == 0, "everything was settled"
    assert fleet.wait_finished("b1") == "completed"
    assert own > 0, "it had something to finish"
    assert sum(f"-{leaving.process.pid}-" in worker for worker in owners(fleet)) == own
    assert fleet.simulator.ledger()["calls"] == ITEMS, "nothing was bought twice"
    assert "took over" not in staying.output
