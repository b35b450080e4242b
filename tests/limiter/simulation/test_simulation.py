"""The simulation: ours is never refused and hardly slower than the quota allows, and the provider is honest."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from redis.asyncio import Redis

from limiter.quota.limits import Bucket, InFlight, Limit, Window, guard_us
from limiter.quota.quota import Quota, parse_quota
from limiter.simulation.fleet import START_US, Provider, Report, Scenario, Timeline, simulate
from limiter.simulation.strategies import MOST_TRIES, STRATEGIES, all_at_once, fixed_pause, semaphore, serial

IMAGES = parse_quota("api", {"images": "20/min"})
SHORT = parse_quota("api", {"requests": "5/s"})
BOTH = parse_quota("api", {"images": "20/min", "in_flight": 8})
THREE = parse_quota("api", {"images": "60/min", "requests": {"rate": "2/s", "burst": 4}, "in_flight": 6})

_PREFIXES = itertools.count()


async def ours(redis: Redis, scenario: Scenario) -> Report:
    """Pixmill on keys of its own: virtual clocks of two runs must not meet."""
    return await simulate(redis, f"simulation{next(_PREFIXES)}", scenario)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("replicas", [1, 4, 25])
@pytest.mark.parametrize("quota", [IMAGES, SHORT, BOTH], ids=["images", "short", "both"])
async def test_ours_is_never_refused_and_does_all(
    redis: Redis, quota: Quota, replicas: int, seed: int
) -> None:
    report = await ours(redis, Scenario((quota,), jobs=120, replicas=replicas, seed=seed))
    assert (report.throttled, report.calls, report.done) == (0, 120, 120)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("replicas", [1, 4, 25])
async def test_under_a_bucket_ours_is_refused_only_where_calls_overtake_each_other(
    redis: Redis, replicas: int, seed: int
) -> None:
    """A bucket has no guard: a full one gains nothing until the first call arrives, so a quicker one can be early."""
    steady = Scenario((THREE,), jobs=120, replicas=replicas, seed=seed, jitter_s=0)
    report = await ours(redis, steady)
    assert (report.throttled, report.calls, report.done) == (0, 120, 120)
    report = await ours(redis, dataclasses.replace(steady, jitter_s=0.005))
    assert report.done == 120
    assert report.throttled <= 120 * 0.05


async def test_more_jitter_than_the_guard_covers_is_seen(redis: Redis) -> None:
    """Without this the claim above could hold because nothing is ever refused."""
    report = await ours(redis, Scenario((SHORT,), jobs=200, replicas=4, jitter_s=0.2, seed=1))
    assert report.throttled > 0
    assert report.done == 200


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("quota", [IMAGES, SHORT], ids=["images", "short"])
async def test_under_windows_the_makespan_is_the_optimum_and_the_guards(
    redis: Redis, quota: Quota, seed: int
) -> None:
    scenario = Scenario((quota,), jobs=200, replicas=4, latency_s=(2.0, 4.0), seed=seed)
    (window,) = quota.limits
    assert isinstance(window, Window)
    guards_s = (scenario.jobs - 1) // window.count * guard_us(window.period_us) / 1e6
    report = await ours(redis, scenario)
    assert scenario.optimum_s - 1 <= report.makespan_s  # the last call may be a second shorter than the mean
    assert report.makespan_s <= scenario.optimum_s * 1.03 + guards_s + 1  # and up to a second longer


async def test_a_thousand_replicas_share_a_quota(redis: Redis) -> None:
    report = await ours(redis, Scenario((IMAGES,), jobs=300, replicas=1000))
    assert (report.done, report.throttled) == (300, 0)


async def test_one_seed_is_one_run_and_another_seed_another(redis: Redis) -> None:
    scenario = Scenario((THREE,), jobs=100, replicas=4, seed=7)
    other = dataclasses.replace(scenario, seed=8)
    first = await ours(redis, scenario)
    assert first == await ours(redis, scenario)
    assert first.makespan_s != (await ours(redis, other)).makespan_s
    for strategy in STRATEGIES:
        report = await strategy(scenario)
        assert report == await strategy(scenario)
        assert report.makespan_s != (await strategy(other)).makespan_s


def provider_of(*limits: Limit) -> tuple[Provider, Timeline]:
    timeline = Timeline()
    return Provider(limits, timeline), timeline


def test_the_provider_refuses_calls_beyond_a_window_for_one_period() -> None:
    provider, timeline = provider_of(Window(2, 1_000_000))
    assert [provider.admits() for _ in range(3)] == [True, True, False]
    timeline.now_us = START_US + 999_999
    assert not provider.admits()
    timeline.now_us = START_US + 1_000_000
    assert [provider.admits() for _ in range(3)] == [True, True, False]


def test_the_provider_refuses_calls_beyond_a_bucket_and_refills_it() -> None:
    provider, timeline = provider_of(Bucket(2, 1_000_000, 3))
    assert [provider.admits() for _ in range(4)] == [True, True, True, False]
    timeline.now_us = START_US + 499_999
    assert not provider.admits()
    timeline.now_us = START_US + 500_000
    assert [provider.admits() for _ in range(2)] == [True, False]
    timeline.now_us = START_US + 60_000_000
    assert [provider.admits() for _ in range(4)] == [True, True, True, False]


def test_the_provider_refuses_more_in_flight_than_it_runs() -> None:
    provider, _ = provider_of(InFlight(2))
    assert [provider.admits() for _ in range(3)] == [True, True, False]
    provider.ended()
    assert [provider.admits() for _ in range(2)] == [True, False]


def test_a_refusal_uses_nothing_up() -> None:
    provider, timeline = provider_of(Window(3, 1_000_000), InFlight(1))
    assert [provider.admits() for _ in range(10)] == [True, *[False] * 9]
    timeline.now_us = START_US + 1
    admitted = []
    for _ in range(3):
        provider.ended()
        admitted.append(provider.admits())
    assert admitted == [True, True, False]


async def test_strategies_without_a_limiter_are_refused_and_ours_is_not(redis: Redis) -> None:
    scenario = Scenario((BOTH,), jobs=100, replicas=4)
    best = await ours(redis, scenario)
    for strategy in (all_at_once, semaphore, serial, fixed_pause):
        report = await strategy(scenario)
        assert report.throttled > best.throttled == 0, report.strategy
        assert report.calls == report.done + report.throttled


async def test_a_serial_sender_with_pauses_leaves_quota_unused() -> None:
    """The only habit that is not refused pays for it with its time."""
    scenario = Scenario((parse_quota("api", {"images": "60/min"}),), jobs=100, replicas=1)
    report = await fixed_pause(scenario)
    assert report.throttled == 0
    assert report.utilisation < 0.5


async def test_a_strategy_that_never_gets_through_gives_up() -> None:
    hour = parse_quota("api", {"requests": "1/h"})
    report = await all_at_once(Scenario((hour,), jobs=200, latency_s=(1, 1)))
    assert report.done < report.jobs
    assert MOST_TRIES <= report.calls < MOST_TRIES + 200
    assert report.utilisation == 0
