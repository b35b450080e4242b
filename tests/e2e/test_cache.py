"""Ten identical jobs are one paid call and ten pictures, by the simulator's own books, also when a worker is killed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.e2e.processes import SimulatorProcess, wait_until
from tests.e2e.test_fleet import Fleet
from tests.e2e.test_tasks import HUNYUAN, KEYED
from tests.servers import RedisServer

IDENTICAL = {"prompt": "a red kettle", "cache": "use", "output": {"thumbnail": False}}
ONE_A_MINUTE = 'images = "1/min"'


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer) -> Iterator[Fleet]:
    simulator = SimulatorProcess(tmp_path, "--plain", "--latency", "0.5-0.5")
    fleet = Fleet(tmp_path, redis_server, simulator, ONE_A_MINUTE)
    yield fleet
    fleet.close()


@pytest.fixture
def task_fleet(tmp_path: Path, redis_server: RedisServer) -> Iterator[Fleet]:
    """With a provider whose calls are tasks: what was submitted outlives who submitted it."""
    simulator = SimulatorProcess(tmp_path, "--plain", "--latency", "1-1")
    simulator.base_url = simulator.base_url.removesuffix("/v1")
    config = HUNYUAN.replace('api_key_env = "E2E_API_KEY"', KEYED)
    fleet = Fleet(tmp_path, redis_server, simulator, 'preset = "tencent-hunyuan"', config)
    yield fleet
    fleet.close()


def submit_batch(fleet: Fleet, items: int) -> None:
    payload = {"id": "b1", "defaults": IDENTICAL, "items": [{"id": f"i{k}"} for k in range(items)]}
    fleet.redis.xadd("pixmill:jobs", {"type": "pixmill.batch.v1", "data": json.dumps(payload)})


def counted(fleet: Fleet) -> Counter[str]:
    """`pixmill_cache_total` of all replicas together."""
    total: Counter[str] = Counter()
    for replica in fleet.replicas:
        url = re.search(r"http://\S+/metrics", replica.wait_for("replica started"))
        assert url is not None
        text = httpx2.get(url[0].strip("'\""), trust_env=False).text
        for result, value in re.findall(r'pixmill_cache_total\{result="(\w+)"\} ([\d.]+)', text):
            total[result] += int(float(value))
    return total


def one_picture(fleet: Fleet, stored: int) -> bool:
    """Whether so many pictures are stored, and all are the same one."""
    return len(fleet.pictures()) == stored and len({path.read_bytes() for path in fleet.pictures()}) == 1


def test_ten_identical_jobs_are_one_paid_call_and_ten_pictures(fleet: Fleet) -> None:
    fleet.start(2)
    for k in range(10):
        fleet.redis.xadd("pixmill:jobs", {"data": json.dumps({"id": f"page-{k}", **IDENTICAL})})
    # The quota grants one call a minute: a copy that took a permit would not be done in time.
    wait_until(lambda: len(fleet.events("job.succeeded")) == 10, 30, lambda: fleet.replicas[0].output[-3000:])
    submit_batch(fleet, 5)
    assert fleet.wait_finished("b1") == "completed"
    ledger = fleet.simulator.ledger()
    assert (ledger["calls"], ledger["billed"]) == (1, 1)
    assert one_picture(fleet, 15)
    assert counted(fleet) == Counter(miss=1, joined=9, hit=5)
    sources = {data["cached_from"] for data in fleet.events("job.succeeded")} - {None}
    assert len(sources) == 1, "all have the picture of the one that came first"
    assert fleet.redis.xpending("pixmill:q:default:cached", "workers")["pending"] == 0


def test_when_the_leaders_worker_is_killed_its_task_is_still_the_only_one(task_fleet: Fleet) -> None:
    fleet = task_fleet
    (victim,) = fleet.start(1)
    submit_batch(fleet, 10)
    wait_until(lambda: fleet.events("job.submitted"), 20)
    victim.kill()
    fleet.replicas.remove(victim)
    fleet.start(2)
    assert fleet.wait_finished("b1") == "completed"
    ledger = fleet.simulator.ledger()
    assert (ledger["calls"], ledger["billed"], ledger["max_in_flight"]) == (1, 1, 1)
    assert len(fleet.events("job.submitted")) == 1
    assert one_picture(fleet, 10)
    assert counted(fleet) == Counter(miss=1, joined=9)
    assert {data["cached_from"] for data in fleet.events("job.succeeded")} == {None, "b1/i0"}
