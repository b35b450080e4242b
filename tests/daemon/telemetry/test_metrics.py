"""Metrics keep their names and a bounded number, and gauges from Redis show the state of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from daemon.telemetry.gauges import FRESH_S, KEEPS_EVERY_S, STALE_S, STATES, RedisGauges, pace_s_per_item
from daemon.telemetry.metrics import Metrics
from limiter.limiter import Limiter
from limiter.quota.quota import Bucket, InFlight, Quota, Window
from pixmill.records.keys import INTAKE_GROUP, LANES, Keys
from tests.servers import RedisServer

S = 1_000_000
OPENAI = Quota("openai-main", (Window(20, 10 * S, "images"), InFlight(8)))
HUNYUAN = Quota("hunyuan-main", (InFlight(1),))
ROUTES: dict[str, Sequence[Quota]] = {"default": (OPENAI,), "slides": (HUNYUAN,), "free": ()}
DEPTH, ACTIVE, WAITING = "pixmill:depth", "pixmill:active", "pixmill:waiting:default"

CONTRACT = {
    "jobs_received_total": {"lane"},
    "jobs_finished_total": {"route", "outcome"},
    "jobs_rerouted_total": {"route", "instead_of"},
    "job_errors_total": {"route", "kind"},
    "provider_requests_total": {"provider", "route", "status"},
    "provider_429_total": {"provider", "quota"},
    "provider_calls_total": {"provider", "charged"},
    "cost_total": {"provider", "currency"},
    "images_total": {"provider", "route"},
    "image_bytes_total": set(),
    "limiter_grants_total": {"quota"},
    "limiter_cooldowns_total": {"quota"},
    "limiter_errors_total": set(),
    "retries_total": {"route", "kind"},
    "reclaimed_total": set(),
    "entries_lost_total": set(),
    "dead_letters_total": {"reason"},
    "duplicate_results_total": set(),
    "queue_depth": {"route", "lane", "state"},
    "queue_oldest_seconds": {"route"},
    "stream_lag": set(),
    "stream_pending": set(),
    "jobs_lost": set(),
    "quota_capacity": {"quota", "unit"},
    "quota_available": {"quota", "unit"},
    "quota_in_flight": {"quota"},
    "quota_cooldown_seconds": {"quota"},
    "quota_pause_seconds": {"quota"},
    "route_silent_seconds": {"route"},
    "batches_active": set(),
    "backlog_seconds": {"route"},
    "in_flight": set(),
    "slots": set(),
    "last_progress_timestamp_seconds": set(),
    "draining": set(),
    "storage_failing": set(),
    "redis_aof_enabled": set(),
    "event_loop_lag_seconds": set(),
    "build_info": {"version"},
    "provider_latency_seconds_count": {"provider", "route"},
    "queue_seconds_count": {"route"},
    "limiter_wait_seconds_count": {"quota"},
    "persist_seconds_count": set(),
    "poll_gap_seconds_count": {"route"},
    "job_seconds_count": {"route"},
    "image_size_bytes_count": set(),
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """A registry with gauges over one Redis, as a replica has them."""

    def __init__(self, client: Redis) -> None:
        self.metrics = Metrics()
        self.clock = Clock()
        self.limiter = Limiter(client, "pixmill")
        for route, quotas in ROUTES.items():
            self.metrics.know_route(route, "openai", [quota.name for quota in quotas], "USD", ["spare"])
        self.gauges = RedisGauges(
            client, Keys("pixmill"), self.limiter, lambda: ROUTES, self.metrics, monotonic=self.clock
        )

    async def value(self, name: str, **labels: str) -> float | None:
        """The value as a scrape would see it after a fresh reading; None: not exported."""
        self.clock.now += FRESH_S
        await self.gauges.refresh()
        return self.shown(name, **labels)

    def shown(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"pixmill_{name}", labels)


@pytest.fixture(params=[True, False], ids=["legacy_responses", "unified_responses"])
async def fleet(
    request: pytest.FixtureRequest, redis: Redis, redis_server: RedisServer
) -> AsyncIterator[Fleet]:
    client = Redis.from_url(redis_server.url, legacy_responses=request.param)
    yield Fleet(client)
    await client.aclose()


async def test_every_metric_of_the_contract_has_its_name_and_its_labels(fleet: Fleet) -> None:
    await fleet.value("slots")
    exported: dict[str, set[str]] = {}
    for family in fleet.metrics.registry.collect():
        for sample in family.samples:
            exported[sample.name.removeprefix("pixmill_")] = set(sample.labels)
    assert {name: exported.get(name) for name in CONTRACT} == CONTRACT


def test_no_created_series_are_exported() -> None:
    metrics = Metrics()
    metrics.know_route("default", "openai", ["openai-main"])
    assert b"_created" not in generate_latest(metrics.registry)


def test_two_metrics_do_not_share_a_registry() -> None:
    first, second = Metrics(), Metrics()
    first.reclaimed.inc()
    assert second.registry.get_sample_value("pixmill_reclaimed_total") == 0


def test_a_known_route_begins_every_series_at_zero() -> None:
    metrics = Metrics()
    metrics.know_route("default", "openai", ["openai-main"], "USD", ["spare"])
    counters = [
        sample
        for family in metrics.registry.collect()
        if family.type == "counter" and family.name.startswith("pixmill_")
        for sample in family.samples
    ]
    assert {sample.value for sample in counters} == {0.0}
    missing = {name for name in CONTRACT if name.endswith("_total")} - {
        sample.name.removeprefix("pixmill_") for sample in counters
    }
    assert not missing


def test_the_refused_polls_of_a_quota_begin_at_zero_too() -> None:
    metrics = Metrics()
    metrics.know_route("default", "zimage", ["main"])
    shown = metrics.registry.get_sample_value
    quota = {"quota": Quota("main", ()).polls.name}
    assert shown("pixmill_provider_429_total", {"provider": "zimage", **quota}) == 0
    assert shown("pixmill_limiter_cooldowns_total", quota) == 0


def test_naming_a_route_twice_adds_no_series_and_resets_none() -> None:
    metrics = Metrics()
    metrics.know_route("default", "openai", ["openai-main"])
    metrics.provider_429.labels(provider="openai", quota="openai-main").inc()
    before = [sample for family in metrics.registry.collect() for sample in family.samples]
    metrics.know_route("default", "openai", ["openai-main"])
    after = [sample for family in metrics.registry.collect() for sample in family.samples]
    ours = [s for s in after if s.name.startswith("pixmill_")]
    assert ours == [s for s in before if s.name.startswith("pixmill_")]


def test_only_money_is_added_to_the_costs() -> None:
    metrics = Metrics()
    for cost in (Decimal("0.0387"), Decimal("0.0387"), Decimal(0), Decimal(-1), Decimal("NaN"), None):
        metrics.count_cost("openrouter", cost, "USD")
    metrics.count_cost("openrouter", Decimal(5), None)
    metrics.count_cost("hunyuan", Decimal("0.2"), "CNY")
    costs = {
        (sample.labels["provider"], sample.labels["currency"]): sample.value
        for family in metrics.cost.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert costs == pytest.approx({("openrouter", "USD"): 0.0774, ("hunyuan", "CNY"): 0.2})


async def test_an_empty_redis_shows_zeros_for_what_is_configured(fleet: Fleet) -> None:
    assert await fleet.value("batches_active") == 0
    assert fleet.shown("stream_lag") == 0
    assert fleet.shown("stream_pending") == 0
    for route in ROUTES:
        assert fleet.shown("queue_oldest_seconds", route=route) == 0
        assert fleet.shown("backlog_seconds", route=route) == 0
        for lane in LANES:
            for state in STATES:
                assert fleet.shown("queue_depth", route=route, lane=lane, state=state) == 0


async def test_depth_follows_the_hash_even_for_an_unconfigured_route(fleet: Fleet, redis: Redis) -> None:
    await redis.hset(DEPTH, mapping={"default|high|running": 3, "removed|normal|queued": 7})
    assert await fleet.value("queue_depth", route="default", lane="high", state="running") == 3
    assert fleet.shown("queue_depth", route="removed", lane="normal", state="queued") == 7


async def test_the_oldest_item_is_measured_with_the_clock_of_redis(fleet: Fleet, redis: Redis) -> None:
    seconds, micros = await redis.time()
    now_us = seconds * S + micros
    await redis.zadd(WAITING, {"t//young": now_us - 5 * S, "t//old": now_us - 90 * S})
    age_s = await fleet.value("queue_oldest_seconds", route="default")
    assert age_s is not None
    assert 90 <= age_s < 100


async def test_lag_and_pending_are_those_of_the_intake_group(fleet: Fleet, redis: Redis) -> None:
    await redis.xgroup_create("pixmill:jobs", INTAKE_GROUP, "0", mkstream=True)
    for number in range(5):
        await redis.xadd("pixmill:jobs", {"data": str(number)})
    await redis.xreadgroup(INTAKE_GROUP, "w", {"pixmill:jobs": ">"}, count=2)
    assert await fleet.value("stream_lag") == 3
    assert fleet.shown("stream_pending") == 2


async def test_a_lag_that_redis_does_not_know_is_not_exported(fleet: Fleet, redis: Redis) -> None:
    await redis.xgroup_create("pixmill:jobs", INTAKE_GROUP, "0", mkstream=True)
    entries = [await redis.xadd("pixmill:jobs", {"data": str(number)}) for number in range(3)]
    await redis.xreadgroup(INTAKE_GROUP, "w", {"pixmill:jobs": ">"}, count=1)
    await redis.xdel("pixmill:jobs", entries[1])  # an unread entry was deleted
    assert await fleet.value("stream_lag") is None
    assert fleet.shown("stream_pending") == 1


async def test_jobs_that_were_trimmed_unread_are_exported_as_lost(fleet: Fleet, redis: Redis) -> None:
    await redis.xgroup_create("pixmill:jobs", INTAKE_GROUP, "0", mkstream=True)
    assert await fleet.value("jobs_lost") is None
    await redis.hset("pixmill:installation", "entries_ended", 0)
    assert await fleet.value("jobs_lost") == 0
    await redis.xadd("pixmill:jobs", {"data": "x"})
    await redis.xtrim("pixmill:jobs", maxlen=0, approximate=False)
    assert await fleet.value("jobs_lost") == 1


async def test_the_file_that_redis_keeps_is_looked_for_every_half_minute(fleet: Fleet, redis: Redis) -> None:
    try:
        assert await fleet.value("redis_aof_enabled") == 0
        await redis.config_set("appendonly", "yes")
        assert await fleet.value("redis_aof_enabled") == 0
        fleet.clock.now += KEEPS_EVERY_S
        assert await fleet.value("redis_aof_enabled") == 1
    finally:
        await redis.config_set("appendonly", "no")


async def test_a_redis_that_does_not_report_its_file_exports_all_the_rest(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_section: str) -> None:
        raise NoPermissionError("INFO")

    monkeypatch.setattr(fleet.gauges._client, "info", refused)
    assert await fleet.value("redis_aof_enabled") is None
    assert fleet.shown("batches_active") == 0


async def test_active_batches_are_counted(fleet: Fleet, redis: Redis) -> None:
    await redis.zadd(ACTIVE, {"t/b1": 1, "t/b2": 2})
    assert await fleet.value("batches_active") == 2


async def test_quotas_show_capacity_use_and_cooldown(fleet: Fleet) -> None:
    await fleet.limiter.acquire([OPENAI], holder="w", request_id="r1", max_wait_s=0)
    await fleet.limiter.penalise(HUNYUAN, retry_after_s=60, reason="429")
    assert await fleet.value("quota_capacity", quota="openai-main", unit="images") == 20
    assert fleet.shown("quota_available", quota="openai-main", unit="images") == 19
    assert fleet.shown("quota_available", quota="openai-main", unit="in_flight") == 7
    assert fleet.shown("quota_in_flight", quota="openai-main") == 1
    assert fleet.shown("quota_cooldown_seconds", quota="openai-main") == 0
    assert fleet.shown("quota_pause_seconds", quota="openai-main") == 0
    cooldown_s = fleet.shown("quota_cooldown_seconds", quota="hunyuan-main")
    assert cooldown_s is not None
    assert 50 < cooldown_s <= 60


async def test_the_polls_of_a_quota_show_a_cooldown_of_their_own(fleet: Fleet) -> None:
    await fleet.limiter.penalise(OPENAI.polls, retry_after_s=60, reason="429")
    cooldown_s = await fleet.value("quota_cooldown_seconds", quota="openai-main.polls")
    assert cooldown_s is not None
    assert 50 < cooldown_s <= 60
    assert fleet.shown("quota_cooldown_seconds", quota="openai-main") == 0
    assert fleet.shown("quota_in_flight", quota="openai-main.polls") is None


async def test_quotas_show_the_rest_of_a_pause_also_without_an_end(fleet: Fleet) -> None:
    await fleet.limiter.pause(OPENAI.name, "no credit")
    await fleet.limiter.exhausted(HUNYUAN, reason="spent", retry_after_s=1e9)
    assert await fleet.value("quota_pause_seconds", quota="openai-main") == float("inf")
    pause_s = fleet.shown("quota_pause_seconds", quota="hunyuan-main")
    assert pause_s is not None
    assert 86_300 < pause_s <= 86_400


async def test_a_route_is_silent_as_long_as_its_longest_quota_and_a_choice_as_its_first_account(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet.gauges, "_routes_now", lambda: {**ROUTES, "both": (), "free": ()})
    monkeypatch.setattr(fleet.gauges, "_equals", {"both": list(ROUTES)[:2]})
    await fleet.limiter.pause(OPENAI.name, "no credit")
    await fleet.limiter.penalise(HUNYUAN, retry_after_s=60, reason="429")
    assert await fleet.value("route_silent_seconds", route="free") == 0
    first, second = (fleet.shown("route_silent_seconds", route=route) for route in list(ROUTES)[:2])
    assert first is not None
    assert second is not None
    assert 50 < min(first, second) <= 60
    assert max(first, second) == float("inf")
    assert fleet.shown("route_silent_seconds", route="both") == min(first, second)


async def test_backlog_is_the_time_that_the_quota_needs_for_waiting_items(fleet: Fleet, redis: Redis) -> None:
    for field, count in (("normal|queued", 150), ("high|throttled", 30), ("low|retry_wait", 20)):
        await redis.hset(DEPTH, f"default|{field}", count)
    await redis.hset(DEPTH, mapping={"default|normal|running": 8, "default|low|held": 5})
    backlog_s = await fleet.value("backlog_seconds", route="default")
    assert backlog_s == pytest.approx(200 / 2)  # 20 per 10 s


async def test_backlog_under_a_limit_in_flight_is_absent_until_a_call_was_measured(
    fleet: Fleet, redis: Redis
) -> None:
    await redis.hset(DEPTH, "slides|normal|queued", 10)
    assert await fleet.value("backlog_seconds", route="slides") is None
    fleet.metrics.observe_call("openai", "slides", 20)
    fleet.metrics.observe_call("openai", "slides", 40)
    assert await fleet.value("backlog_seconds", route="slides") == pytest.approx(10 * 22), "a running average"


async def test_a_reading_answers_for_a_second(fleet: Fleet, redis: Redis) -> None:
    assert await fleet.value("batches_active") == 0
    await redis.zadd(ACTIVE, {"t/b1": 1})
    await fleet.gauges.refresh()
    assert fleet.shown("batches_active") == 0
    fleet.clock.now += FRESH_S
    await asyncio.gather(fleet.gauges.refresh(), fleet.gauges.refresh())
    assert fleet.shown("batches_active") == 1


async def test_gauges_outlive_a_short_absence_of_redis_and_then_disappear() -> None:
    server = RedisServer()
    client = Redis.from_url(server.url)
    fleet = Fleet(client)
    try:
        assert await fleet.value("batches_active") == 0
        server.kill()
        assert await fleet.value("batches_active") == 0
        fleet.clock.now += STALE_S
        assert await fleet.value("batches_active") is None
        assert fleet.shown("jobs_received_total", lane="high") == 0
        server.start()
        assert await fleet.value("batches_active") == 0
    finally:
        await client.aclose()
        server.close()


rates = st.builds(Window, st.integers(1, 10_000), st.integers(S, 86_400 * S)) | st.builds(
    Bucket, st.integers(1, 10_000), st.integers(S, 86_400 * S), st.integers(1, 1000)
)


@given(rates)
def test_the_pace_of_a_rate_is_its_period_divided_by_its_count(limit: Window | Bucket) -> None:
    pace_s = pace_s_per_item([Quota("q", (limit,))], call_s=3.0)
    assert pace_s == pytest.approx(limit.period_us / limit.count / S, rel=1e-4)


@given(st.integers(1, 1000), st.floats(0.01, 300), rates)
def test_the_tightest_limit_sets_the_pace(count: int, call_s: float, rate: Window | Bucket) -> None:
    parts = [Quota("a", (InFlight(count),)), Quota("b", (rate,))]
    together = pace_s_per_item([Quota("c", (InFlight(count), rate))], call_s)
    assert together == max(pace_s_per_item([part], call_s) or 0 for part in parts)
    assert together == pace_s_per_item(parts, call_s)


def test_polls_do_not_pace_images() -> None:
    quota = Quota("q", (Window(10, S, "images"), Window(1, 60 * S, "polls")))
    assert pace_s_per_item([quota], None) == pytest.approx(0.1)
