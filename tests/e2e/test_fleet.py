"""Several replicas on one Redis and one account keep its quota, lose nothing and pay for nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from pixmill.records.keys import Keys
from tests.daemon.harness import as_read
from tests.e2e.processes import Command, SimulatorProcess, wait_until
from tests.servers import RedisServer

CONFIG = """
[redis]
url = "{redis_url}"
[worker]
lease = "1s"
drain_timeout = "10s"
[storage]
url = "file://{directory}/images"
[metrics]
listen = "127.0.0.1:0"
[credentials.main]
provider = "openai"
base_url = "{base_url}"
api_key_env = "E2E_API_KEY"
[quotas.main]
{quota}
[routes.default]
credential = "main"
model = "sim-1"
quotas = ["main"]
"""
KEY = "sk-planted-e2e-secret"


class Fleet:
    """Replicas on one Redis and one simulated account."""

    def __init__(
        self,
        directory: Path,
        server: RedisServer,
        simulator: SimulatorProcess,
        quota: str,
        config: str = CONFIG,
    ) -> None:
        self.directory = directory
        self.simulator = simulator
        self.redis: Any = redis.Redis.from_url(server.url)
        self.redis.flushall()
        self.config = directory / "pixmill.toml"
        self.config.write_text(
            config.format(redis_url=server.url, directory=directory, base_url=simulator.base_url, quota=quota)
        )
        self.replicas: list[Command] = []

    def start(self, count: int) -> list[Command]:
        new = [
            Command(["worker", "--config", str(self.config)], self.directory, E2E_API_KEY=KEY)
            for _ in range(count)
        ]
        self.replicas += new
        for replica in new:
            replica.wait_for("replica started")
        return new

    def submit_batch(self, ident: str, items: int, **more: Any) -> None:
        payload = {
            "id": ident,
            "defaults": {"output": {"thumbnail": False}},
            "items": [{"id": f"i{k}", "prompt": f"product {ident} {k}"} for k in range(items)],
            **more,
        }
        self.redis.xadd("pixmill:jobs", {"type": "pixmill.batch.v1", "data": json.dumps(payload)})

    def counts(self, ident: str) -> dict[str, int]:
        fields = self.redis.hgetall(f"pixmill:batch:default/{ident}")
        return {name.decode(): int(value) for name, value in fields.items() if value.isdigit()}

    def unsettled(self, ident: str, items: int, replica: Command) -> set[str]:
        """The items of a batch that a replica runs, by their records."""
        found = set()
        for name in (f"i{k}" for k in range(items)):
            state, worker = self.redis.hmget(f"pixmill:item:default/{ident}/{name}", "state", "worker")
            if state == b"running" and f"-{replica.process.pid}-" in worker.decode():
                found.add(name)
        return found

    def state(self, ident: str) -> str:
        return (self.redis.hget(f"pixmill:batch:default/{ident}", "state") or b"").decode()

    def wait_finished(self, ident: str, timeout_s: float = 40.0) -> str:
        wait_until(
            lambda: self.state(ident) not in ("", "running"),
            timeout_s,
            lambda: (
                f"{self.counts(ident)}\n" + "\n\n".join(replica.output[-3000:] for replica in self.replicas)
            ),
        )
        return self.state(ident)

    def events(self, kind: str) -> list[dict[str, Any]]:
        rows = self.redis.xrange("pixmill:events")
        return [json.loads(fields[b"data"]) for _, fields in rows if fields[b"type"] == kind.encode()]

    def pictures(self) -> list[Path]:
        return sorted((self.directory / "images").rglob("*.png"))

    def close(self) -> None:
        for replica in self.replicas:
            replica.kill()
        self.simulator.stop()


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    options, quota = request.param
    fleet = Fleet(tmp_path, redis_server, SimulatorProcess(tmp_path, "--plain", *options), quota)
    yield fleet
    fleet.close()


@pytest.fixture
def persistent_fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Fleet, RedisServer]]:
    """A fleet on a server of its own with AOF, for tests that restart it."""
    options, quota = request.param
    server = RedisServer(persistent=True)
    fleet = Fleet(tmp_path, server, SimulatorProcess(tmp_path, "--plain", *options), quota)
    yield fleet, server
    fleet.close()
    server.close()


STRICT = (["--images", "20/8s", "--latency", "0.05-0.2"], 'images = "20/8s"')
IN_FLIGHT = (["--in-flight", "3", "--latency", "0.2-0.4"], "in_flight = 3")
SLOW = (["--latency", "1.0-1.5"], "in_flight = 16")


@pytest.mark.timed
@pytest.mark.parametrize("fleet", [STRICT], indirect=True)
def test_two_replicas_share_one_quota_by_the_providers_own_count(fleet: Fleet) -> None:
    fleet.start(2)
    fleet.submit_batch("b1", 45)
    assert fleet.wait_finished("b1") == "completed"
    ledger = fleet.simulator.ledger()
    assert ledger["statuses"] == {"200": 45}, "no answer is 429"
    assert max(ledger["max_in_window"].values()) == 20, (
        "the quota is used to the last token, and never beyond"
    )
    assert len(_workers_of(fleet, "b1")) == 2, "both replicas took part"


def _workers_of(fleet: Fleet, batch: str) -> set[str]:
    uids = fleet.redis.zrange(f"pixmill:members:default/{batch}", 0, -1)
    return {(fleet.redis.hget(b"pixmill:item:" + uid, "worker") or b"").decode() for uid in uids}


@pytest.mark.timed
@pytest.mark.parametrize("fleet", [IN_FLIGHT], indirect=True)
def test_two_replicas_share_the_places_in_flight_by_the_providers_own_count(fleet: Fleet) -> None:
    fleet.start(2)
    fleet.submit_batch("b1", 20)
    assert fleet.wait_finished("b1") == "completed"
    ledger = fleet.simulator.ledger()
    assert ledger["statuses"] == {"200": 20}
    assert ledger["max_in_flight"] == 3


@pytest.mark.parametrize("fleet", [SLOW], indirect=True)
def test_a_killed_workers_batch_ends_with_one_result_for_every_item(
    fleet: Fleet,
) -> None:
    victim, _ = fleet.start(2)
    fleet.submit_batch("b1", 40)
    wait_until(lambda: fleet.counts("b1").get("succeeded", 0) >= 3, 20)
    victim.kill()
    unsettled = fleet.unsettled("b1", 40, victim)
    assert fleet.wait_finished("b1") == "completed"

    finished = [data["item"] for data in fleet.events("job.succeeded")]
    assert sorted(finished) == sorted(f"i{k}" for k in range(40)), "exactly one result each"
    assert len(fleet.pictures()) == 40
    assert fleet.redis.xpending("pixmill:q:default:normal", "workers")["pending"] == 0
    calls = fleet.simulator.ledger(entries=True)["calls_by_prompt"]
    resent = {f"i{prompt.rpartition(' ')[2]}" for prompt in calls if calls[prompt] > 1}
    assert resent <= unsettled, "only calls that the killed worker had not settled were sent again"


@pytest.mark.parametrize("fleet", [SLOW], indirect=True)
def test_a_stopping_replica_finishes_the_calls_that_it_has_paid_for(fleet: Fleet) -> None:
    (replica,) = fleet.start(1)
    fleet.submit_batch("b1", 30)
    wait_until(lambda: fleet.simulator.ledger()["calls"] >= 8, 20)
    assert replica.stop() == 0
    ledger = fleet.simulator.ledger()
    counts = fleet.counts("b1")
    assert counts["succeeded"] == ledger["calls"], "every call that was made has its picture"
    assert counts["running"] == 0
    fleet.start(1)
    assert fleet.wait_finished("b1") == "completed"
    assert fleet.simulator.ledger()["calls"] == 30, "and no call was made twice"


@pytest.mark.parametrize("persistent_fleet", [SLOW], indirect=True)
def test_a_redis_restart_leaves_one_result_for_every_item(
    persistent_fleet: tuple[Fleet, RedisServer],
) -> None:
    fleet, server = persistent_fleet
    fleet.start(2)
    fleet.submit_batch("b1", 60)
    wait_until(lambda: fleet.counts("b1").get("succeeded", 0) >= 5, 20)
    server.kill()
    server.start()
    assert fleet.wait_finished("b1") == "completed"
    finished = [data["item"] for data in fleet.events("job.succeeded")]
    assert sorted(finished) == sorted(f"i{k}" for k in range(60))
    assert fleet.simulator.ledger()["calls"] == 60, "no call was made twice"
    # The bell works again too: new work starts at once.
    fleet.submit_batch("b2", 2)
    assert fleet.wait_finished("b2", 15) == "completed"


@pytest.mark.parametrize("fleet", [STRICT], indirect=True)
def test_the_key_is_in_no_log_no_record_and_no_event(fleet: Fleet) -> None:
    fleet.start(1)
    fleet.submit_batch("b1", 2)
    fleet.wait_finished("b1")
    for key in fleet.redis.keys("*"):
        assert KEY.encode() not in (fleet.redis.dump(key) or b"")
    assert KEY not in fleet.replicas[0].output


@pytest.mark.parametrize("fleet", [IN_FLIGHT], indirect=True)
def test_a_second_worker_on_the_default_port_takes_the_next_and_prints_it(fleet: Fleet) -> None:
    fleet.config.write_text(fleet.config.read_text().replace('[metrics]\nlisten = "127.0.0.1:0"\n', ""))
    addresses = []
    for _ in range(2):
        (replica,) = fleet.start(1)
        addresses.append(httpx2.URL(json.loads(replica.wait_for("replica started"))["metrics"]))
    # Another process of this machine may have the first port, so only the order is certain.
    first, second = (address.port or 0 for address in addresses)
    assert 9108 <= first < second <= 9207
    moved = json.loads(fleet.replicas[1].wait_for("another process has the port of /metrics"))
    assert f"{moved['ours']}/metrics" == addresses[1]
    for address in addresses:
        assert httpx2.get(address, trust_env=False).status_code == 200


@pytest.mark.parametrize("fleet", [IN_FLIGHT], indirect=True)
def test_a_job_ends_at_its_time_while_the_provider_cannot_be_reached(fleet: Fleet) -> None:
    nowhere = "http://127.0.0.1:9/v1"  # the port `discard`, which nothing listens at
    fleet.config.write_text(fleet.config.read_text().replace(fleet.simulator.base_url, nowhere))
    fleet.start(1)
    soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    for job in ({"id": "start", "expires_at": soon}, {"id": "end", "deadline": soon}, {"id": "patient"}):
        fleet.redis.xadd("pixmill:jobs", {"data": json.dumps({"prompt": "a mug", **job})})

    def ended() -> dict[str, str]:
        kinds = ("expired", "failed", "succeeded", "cancelled")
        return {event["job"]: kind for kind in kinds for event in fleet.events(f"job.{kind}")}

    wait_until(
        lambda: {"start", "end"} <= ended().keys(), 90, lambda: f"{ended()}\n{fleet.replicas[0].output}"
    )
    assert ended() == {"start": "expired", "end": "expired"}
    for ident in ("start", "end", "patient"):
        record = as_read(fleet.redis.hgetall(Keys("pixmill").item(f"default//{ident}")))
        assert record["attempts"] == "0"
    assert fleet.events("provider.unreachable")
    fleet.config.write_text(fleet.config.read_text().replace(nowhere, fleet.simulator.base_url))
    fleet.replicas[0].stop()
    fleet.start(1)
    wait_until(lambda: "patient" in ended(), 60, lambda: fleet.replicas[1].output)
    assert ended()["patient"] == "succeeded"
    assert fleet.simulator.ledger()["calls"] == 1
