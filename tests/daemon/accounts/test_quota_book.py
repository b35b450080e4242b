"""Running replicas follow the limits that operators set: at once by the bell, soon without it, and after restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from daemon.accounts import quota_book
from daemon.accounts.quota_store import reset, set_limits, stored_tables
from daemon.accounts.routes import Route, Routes
from daemon.queue.outcomes import Outcome, Succeeded
from daemon.replica import Replica
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from daemon.worker.run import Phase, Run
from limiter.explain import spelled
from limiter.quota.quota import parse_quota
from tests.daemon.harness import NO_WEBHOOKS, Installation, ScriptedProvider, eventually
from tests.servers import RedisServer


class Fleet:
    """Replicas of one installation with one quota; calls end at a sign from the test, and their starts are noted."""

    def __init__(self, redis: Redis, url: str, **limits: object) -> None:
        self.installation = Installation(redis)
        self.configured = limits
        self.replicas: list[Replica] = []
        self.in_flight = 0
        self.started: list[tuple[float, int]] = []  # monotonic time, and how many were in flight then
        self._redis = redis
        self._url = url
        self._may_end = asyncio.Semaphore(0)

    async def start(self) -> Replica:
        settings = Settings.model_validate(
            {"metrics": {"listen": "127.0.0.1:0"}, "quotas": {"q": self.configured}}
        )
        route = Route("default", ScriptedProvider(), "model-1", (parse_quota("q", self.configured),))
        store = ResultStore.open("memory://")
        replica = Replica(settings, self._url, Routes([route]), store, NO_WEBHOOKS)
        replica.pool.execute = self._execute
        self.replicas.append(replica)
        await replica.start()
        return replica

    async def close(self) -> None:
        self.end(10_000)
        for replica in self.replicas:
            await replica.stop()

    async def _execute(self, run: Run) -> Outcome:
        run.enter(Phase.CALLING)
        self.in_flight += 1
        self.started.append((time.monotonic(), self.in_flight))
        await self._may_end.acquire()
        self.in_flight -= 1
        return Succeeded({"images": []})

    def end(self, calls: int) -> None:
        for _ in range(calls):
            self._may_end.release()

    async def set(self, **fields: object) -> None:
        await set_limits(self._redis, self.installation.keys, "q", self.configured, fields)

    async def follow(self, *limits: str) -> None:
        """Wait until every replica has these limits."""

        async def all_do() -> bool:
            return all(
                [spelled(limit) for limit in replica.routes["default"].quotas[0].limits] == list(limits)
                for replica in self.replicas
            )

        await eventually(all_do)

    async def has_started(self, calls: int) -> None:
        async def enough() -> bool:
            return len(self.started) >= calls

        await eventually(enough)


MakeFleet = Callable[..., Fleet]


@pytest.fixture
async def fleet_of(redis: Redis, redis_server: RedisServer) -> AsyncIterator[MakeFleet]:
    made: list[Fleet] = []

    def make(**limits: object) -> Fleet:
        made.append(Fleet(redis, redis_server.url, **limits))
        return made[-1]

    yield make
    for fleet in made:
        await fleet.close()


async def test_after_a_set_the_fleet_never_has_more_in_flight_than_the_new_count(fleet_of: MakeFleet) -> None:
    fleet = fleet_of(in_flight=6)
    await fleet.start()
    await fleet.start()
    await fleet.installation.batch("b1", 20)
    await fleet.has_started(6)
    await fleet.set(in_flight=2)
    await fleet.follow("in_flight 2")
    fleet.end(5)
    await fleet.has_started(7)
    fleet.end(20)
    await fleet.has_started(20)
    assert max(in_flight for _, in_flight in fleet.started[6:]) == 2


async def test_a_raised_count_is_used_without_a_restart(fleet_of: MakeFleet) -> None:
    fleet = fleet_of(in_flight=1)
    await fleet.start()
    await fleet.installation.batch("b1", 6)
    await fleet.has_started(1)
    await fleet.set(in_flight=5)
    await fleet.has_started(5)
    assert fleet.in_flight == 5


async def test_after_a_set_no_window_has_more_calls_than_the_new_rate(fleet_of: MakeFleet) -> None:
    fleet = fleet_of(images="40/s")
    await fleet.start()
    fleet.end(1000)
    await fleet.installation.batch("b1", 100)
    await fleet.has_started(5)
    await fleet.set(images="2/s")
    await fleet.follow("images 2/s")
    before = len(fleet.started)
    await fleet.has_started(before + 6)
    times = [at for at, _ in fleet.started[before:]]
    # Three within a second would be too many. Half of it, since what starts here may be late for its slot on a busy
    # machine; under the former rate three take a twentieth.
    assert all(later - earlier > 0.5 for earlier, later in zip(times, times[2:], strict=False))
    await fleet.set(images="1000/s")
    await fleet.has_started(60)


async def test_a_reset_returns_to_the_configuration(redis: Redis, fleet_of: MakeFleet) -> None:
    fleet = fleet_of(images="100/s", in_flight=3)
    await fleet.start()
    await fleet.set(in_flight=1)
    await fleet.follow("images 100/s", "in_flight 1")
    await fleet.installation.batch("b1", 5)
    await fleet.has_started(1)
    await reset(redis, fleet.installation.keys, "q")
    await fleet.has_started(3)
    await fleet.follow("images 100/s", "in_flight 3")


async def test_a_set_limit_survives_a_restart_and_counts_from_the_first_call(fleet_of: MakeFleet) -> None:
    fleet = fleet_of(in_flight=6)
    await fleet.set(in_flight=2)
    await fleet.installation.batch("b1", 6)
    await fleet.start()
    await fleet.has_started(2)
    fleet.end(6)
    await fleet.has_started(6)
    assert max(in_flight for _, in_flight in fleet.started) == 2


async def test_no_permit_is_requested_before_the_limits_are_known(
    fleet_of: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(in_flight=6)
    requested, answer = asyncio.Event(), asyncio.Event()
    real = stored_tables

    async def slow(*args: Any) -> dict[str, bytes]:
        requested.set()
        await answer.wait()
        return await real(*args)

    monkeypatch.setattr(quota_book, "stored_tables", slow)
    await fleet.set(in_flight=2)
    await fleet.installation.batch("b1", 6)
    replica = await fleet.start()
    await requested.wait()

    async def reads_jobs() -> bool:
        return replica.intake.read_at is not None

    await eventually(reads_jobs)
    assert replica.dispatchers["default"].looked_at is None
    assert not replica.readiness()[0]
    answer.set()
    await fleet.has_started(2)
    assert fleet.in_flight == 2


async def test_a_replica_that_missed_the_bell_finds_out_by_itself(
    redis: Redis, fleet_of: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_book, "LOOK_EVERY_S", 0.05)
    fleet = fleet_of(in_flight=6)
    await fleet.start()
    await redis.hset(fleet.installation.keys.quotas, "q", '{"in_flight": 2}')
    await fleet.follow("in_flight 2")


async def test_the_bell_makes_a_replica_look_at_once(
    fleet_of: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_book, "LOOK_EVERY_S", 3600.0)
    fleet = fleet_of(in_flight=6)
    replica = await fleet.start()
    await replica._quota_book.known.wait()
    await eventually(lambda: _listens(fleet))
    await fleet.set(in_flight=2)
    await fleet.follow("in_flight 2")


async def _listens(fleet: Fleet) -> bool:
    bell = fleet.installation.keys.bell
    counts: dict[bytes, int] = dict(await fleet.installation.redis.pubsub_numsub(bell))
    return any(counts.values())


async def test_an_unreadable_limit_is_logged_once_and_the_configuration_counts(
    redis: Redis, fleet_of: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_book, "LOOK_EVERY_S", 0.01)
    fleet = fleet_of(in_flight=2)
    await redis.hset(fleet.installation.keys.quotas, "q", '{"in_flight": {"moonlight": 3}}')
    await redis.hset(fleet.installation.keys.quotas, b"\xff", b"{")  # of an unknown quota
    with structlog.testing.capture_logs() as logs:
        replica = await fleet.start()
        await replica._quota_book.known.wait()
        for _ in range(3):
            await replica._quota_book.read()
        await fleet.installation.batch("b1", 4)
        await fleet.has_started(2)
        assert fleet.in_flight == 2
    (reported,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert "cannot be read" in reported["event"]
    assert "a table names the one unit" in reported["problem"]
    await fleet.set(in_flight=4)
    await fleet.has_started(4)


async def test_the_gauges_show_the_limits_in_force(fleet_of: MakeFleet) -> None:
    fleet = fleet_of(in_flight=6)
    replica = await fleet.start()
    await fleet.set(in_flight=2)
    await fleet.follow("in_flight 2")

    async def shown() -> bool:
        labels = {"quota": "q", "unit": "in_flight"}
        return replica.metrics.registry.get_sample_value("pixmill_quota_capacity", labels) == 2

    await eventually(shown)
