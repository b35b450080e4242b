"""A deploy: old replicas get SIGTERM with calls in flight, new ones start beside; nothing is lost or paid again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.processes import SimulatorProcess, wait_until
from tests.e2e.receiver import SECRET, Receiver
from tests.e2e.test_fleet import CONFIG, Fleet
from tests.servers import RedisServer

# A longer lease, so that no replica counts as dead on a busy machine.
CALLING_BACK = (
    CONFIG.replace('lease = "1s"', 'lease = "6s"')
    + """
[network]
allow_hosts = ["127.0.0.1"]
[webhooks.shop]
secret_file = "{directory}/hook-secret"
"""
)
ITEMS = 16


class Case(NamedTuple):
    """How long the provider takes, how long a stop waits, and how an old replica may end."""

    config: str
    latency: str
    exits: set[int]


# A task outlives the replica that submitted it: it is handed over with its id, and polled by a new one.
TASKS = Case(
    CALLING_BACK.replace('provider = "openai"', 'provider = "zimage"')
    .replace("sim-1", "Tongyi-MAI/Z-Image-Turbo")
    .replace('drain_timeout = "10s"', 'drain_timeout = "3s"'),
    "9-10",
    {1},
)
# A synchronous call cannot be handed over, so the stop waits for it.
SYNC = Case(CALLING_BACK.replace('"10s"', '"30s"'), "1.0-1.5", {0})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    given: Case = request.param
    return given


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer, case: Case) -> Iterator[Fleet]:
    simulator = SimulatorProcess(tmp_path, "--plain", "--latency", case.latency)
    if case is TASKS:
        simulator.base_url = simulator.base_url.removesuffix("/v1") + "/modelscope"
    (tmp_path / "hook-secret").write_text(SECRET)
    fleet = Fleet(tmp_path, redis_server, simulator, "in_flight = 12", case.config)
    yield fleet
    fleet.close()


def calls(fleet: Fleet) -> dict[str, int]:
    by_prompt: dict[str, int] = fleet.simulator.ledger(entries=True)["calls_by_prompt"]
    return by_prompt


@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", [TASKS, SYNC], indirect=True, ids=["tasks", "sync"])
def test_a_deploy_loses_no_work_and_pays_nothing_again(fleet: Fleet, case: Case, receiver: Receiver) -> None:
    old = fleet.start(2)
    fleet.submit_batch("b1", ITEMS, callback={"url": receiver.url, "secret": "shop"})
    wait_until(lambda: len(calls(fleet)) >= 6, 30)
    for replica in old:
        replica.process.send_signal(signal.SIGTERM)
    fleet.start(2)
    assert {replica.process.wait(60) for replica in old} <= case.exits | {0}
    assert fleet.wait_finished("b1", 90) == "completed"

    assert set(calls(fleet).values()) == {1}, "every picture was bought once"
    assert len(calls(fleet)) == ITEMS
    finished = [data["item"] for data in fleet.events("job.succeeded")]
    assert sorted(finished) == sorted(f"i{k}" for k in range(ITEMS)), "one result each"
    counts = fleet.counts("b1")
    assert (counts["total"], counts["succeeded"], counts["running"]) == (ITEMS, ITEMS, 0)
    assert len(fleet.pictures()) == ITEMS
    wait_until(lambda: receiver.kinds(), 10)
    assert receiver.kinds() == ["batch.finished"]
    assert receiver.forged == 0
    output = "".join(replica.output for replica in fleet.replicas)
    assert SECRET not in output
    assert "planted-query" not in output
    if case is TASKS:
        assert any(replica.process.returncode == 1 for replica in old), "some tasks were handed over"
