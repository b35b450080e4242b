"""KEDA adds workers where slots are short, and none where a quota is: more of them would make it no faster."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from daemon.settings import Settings, load_settings
from limiter.quota.quota import InFlight, Window
from tests.deploy.autoscaler import Account, Scaling, replicas_over_time
from tests.deploy.files import DEPLOY, read_yaml
from tests.e2e.processes import SimulatorProcess, wait_until
from tests.e2e.test_fleet import CONFIG, Fleet
from tests.servers import RedisServer, free_port

SCALED = read_yaml(DEPLOY / "kubernetes" / "keda" / "scaledobject.yaml")
SCALING = Scaling.read(SCALED)
BACKLOG = 10_000
WAITING = 500  # before the worker that runs here
SLOTS = 4  # of that worker


def settings() -> Settings:
    return load_settings(DEPLOY / "kubernetes" / "base" / "pixmill.toml", environ={}).settings


def account(call_s: int, images: int | None = None) -> Account:
    """The account of the ConfigMap, with calls of this length."""
    (quota,) = settings().parsed_quotas().values()
    (window,) = [limit for limit in quota.limits if isinstance(limit, Window)]
    (places,) = [limit for limit in quota.limits if isinstance(limit, InFlight)]
    return Account(images or window.count, window.period_us // 1_000_000, places.count, call_s)


def test_a_backlog_that_a_quota_binds_stays_at_two_replicas() -> None:
    slots = settings().worker.max_in_flight
    for call_s in (5, 15, 30, 50):
        assert set(replicas_over_time(SCALING, account(call_s), slots=slots, backlog=BACKLOG)) == {2}, call_s


def test_a_backlog_that_slots_bind_grows_to_the_limits_of_the_account() -> None:
    slots = settings().worker.max_in_flight
    seen = replicas_over_time(SCALING, account(150), slots=slots, backlog=BACKLOG)
    assert seen[0] == SCALING.least
    assert max(seen) == seen[-1] == SCALING.most
    assert sorted(seen) == seen, "nothing is stopped while there is work"


def test_a_fleet_that_has_grown_shrinks_once_its_work_is_done() -> None:
    seen = replicas_over_time(SCALING, account(150), slots=settings().worker.max_in_flight, backlog=1_500)
    assert max(seen) == SCALING.most
    assert seen[-1] == SCALING.least


def test_the_length_of_the_queue_would_start_workers_that_have_nothing_to_do() -> None:
    assert SCALING.desired(BACKLOG, 2) == SCALING.most


def test_the_mean_keeps_a_burst_from_starting_workers() -> None:
    """250 calls at once fill the slots for some seconds in each minute."""
    burst = account(5, images=250)
    assert set(replicas_over_time(SCALING, burst, slots=64, backlog=BACKLOG)) == {2}
    assert SCALING.desired(2 * 64, 2) > 2, "their peak alone would"


def test_the_numbers_follow_from_the_settings() -> None:
    slots = settings().worker.max_in_flight
    places = sum(
        limit.count
        for quota in settings().parsed_quotas().values()
        for limit in quota.limits
        if isinstance(limit, InFlight)
    )
    assert SCALING.most == math.ceil(places / slots)
    assert SCALING.threshold == 0.75 * slots
    assert SCALED["spec"]["fallback"]["replicas"] == SCALING.least == 2
    (trigger,) = SCALED["spec"]["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false", "a fleet without data is not an idle one"


class OneWorker(Fleet):
    """A worker with few slots, whose metrics are read."""

    def __init__(self, directory: Path, server: RedisServer, latency: str, quota: str) -> None:
        self.port = free_port()
        config = CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{self.port}")
        config = config.replace("[worker]", f"[worker]\nmax_in_flight = {SLOTS}")
        simulator = SimulatorProcess(directory, "--plain", "--latency", latency)
        super().__init__(directory, server, simulator, quota, config)

    def gauge(self, name: str) -> float:
        """The sum of a gauge over its labels."""
        text = httpx2.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text
        found = re.findall(rf"^pixmill_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)


@pytest.fixture
def worker(tmp_path: Path, redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[OneWorker]:
    fleet = OneWorker(tmp_path, redis_server, *request.param)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("worker", [("0.1-0.2", 'images = "3/h"')], indirect=True)
def test_what_waits_for_a_quota_is_in_no_slot(worker: OneWorker) -> None:
    worker.submit_batch("b1", WAITING)
    worker.start(1)
    wait_until(
        lambda: worker.counts("b1").get("succeeded") == 3, 40, lambda: worker.replicas[0].output[-3000:]
    )
    wait_until(lambda: worker.gauge("queue_depth") == WAITING - 3, 20)
    assert worker.gauge("in_flight") == 0


@pytest.mark.parametrize("worker", [("60-61", "in_flight = 16")], indirect=True)
def test_what_waits_for_a_slot_fills_them_all(worker: OneWorker) -> None:
    worker.submit_batch("b1", 40)
    worker.start(1)
    wait_until(lambda: worker.gauge("in_flight") == SLOTS, 40)
    assert worker.gauge("slots") == SLOTS
