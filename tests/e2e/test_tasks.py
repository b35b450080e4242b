"""The next worker polls the tasks of a killed one instead of buying them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY
from tests.e2e.processes import SimulatorProcess, wait_until
from tests.e2e.test_fleet import CONFIG, Fleet
from tests.servers import RedisServer

HUNYUAN = CONFIG.replace('provider = "openai"', 'provider = "hunyuan"').replace("sim-1", "hunyuan-image-3.0")
SIGNED = """wire = "tc3"
secret_id_file = "{directory}/secret-id"
secret_key_file = "{directory}/secret-key\""""
KEYED = """wire = "tokenhub_async"
api_key_env = "E2E_API_KEY\""""


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    simulator = SimulatorProcess(tmp_path, "--plain", "--in-flight", "1", "--latency", "0.8-0.8")
    simulator.base_url = simulator.base_url.removesuffix("/v1")
    (tmp_path / "secret-id").write_text(TC3_SECRET_ID)
    (tmp_path / "secret-key").write_text(TC3_SECRET_KEY)
    config = HUNYUAN.replace('api_key_env = "E2E_API_KEY"', request.param)
    fleet = Fleet(tmp_path, redis_server, simulator, 'preset = "tencent-hunyuan"', config)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("fleet", [SIGNED, KEYED], indirect=True, ids=["tc3", "tokenhub_async"])
def test_a_task_outlives_the_worker_that_submitted_it(fleet: Fleet) -> None:
    (victim,) = fleet.start(1)
    fleet.submit_batch("b1", 3)
    wait_until(lambda: fleet.events("job.submitted"), 20)
    victim.kill()
    fleet.start(2)
    assert fleet.wait_finished("b1") == "completed"
    ledger = fleet.simulator.ledger()
    assert set(ledger["calls_by_prompt"].values()) == {1}, "nothing was bought twice"
    assert (ledger["calls"], ledger["billed"]) == (3, 3), "and nothing was turned away"
    assert ledger["max_in_flight"] == 1
    assert len(fleet.pictures()) == 3
    output = "".join(replica.output for replica in fleet.replicas)
    assert TC3_SECRET_ID not in output
    assert TC3_SECRET_KEY not in output
