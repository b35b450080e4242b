"""Calls arrive at the provider after their slots, each with another delay, and are not refused."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import limiter.quota.limits
from limiter import Bucket, Grant, Permit, Quota, Window
from tests.limiter.conftest import Rig

S = 1_000_000
_FLEXIBLE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@dataclass
class _RealBucket:
    """A provider's token bucket, in whole credits (token x period), full at first; refused calls take nothing."""

    limit: Bucket
    credit: int = -1
    at_us: int = 0

    def admits(self, at_us: int, cost: int) -> bool:
        full = self.limit.burst * self.limit.period_us
        gained = (at_us - self.at_us) * self.limit.count
        self.credit = full if self.credit < 0 else min(full, self.credit + gained)
        self.at_us = at_us
        # Our slots are whole µs, so at the very edge a credit of less than one µs may be missing.
        if self.credit < cost * self.limit.period_us - self.limit.count:
            return False
        self.credit -= cost * self.limit.period_us
        return True


_BUCKETS = st.builds(
    Bucket,
    count=st.integers(1, 100),
    period_us=st.sampled_from([S, 10 * S, 59 * S + 7]),
    burst=st.integers(1, 12),
)
_CALLS = st.lists(
    st.tuples(
        st.sampled_from(["request"] * 5 + ["give_back"]),
        st.sampled_from([0, 0, 0, 1, 900, 30_000, 333_333, 5_000_000]),
        st.integers(1, 3),
        st.sampled_from([0.0, 0.5, 1.0]),
    ),
    min_size=3,
    max_size=60,
)


@settings(_FLEXIBLE, max_examples=150)
@given(limit=_BUCKETS, calls=_CALLS)
async def test_a_bucket_is_never_refused_however_late_each_call_is_within_its_lag(
    redis: Redis, limit: Bucket, calls: list[tuple[str, int, int, float]]
) -> None:
    rig, quota = Rig(redis), Quota("q", (limit,))
    granted: dict[str, tuple[Permit, int, int, float]] = {}
    for action, pass_us, wanted, late in calls:
        rig.time.advance(pass_us)
        cost = min(wanted, limit.burst)
        ahead = [entry for entry in granted.values() if entry[1] > rig.time.now_us]
        if action == "give_back" and ahead:
            await rig.limiter.give_back(ahead[0][0])
            del granted[ahead[0][0].grant_id]
        elif action == "request":
            answer = await rig.request(quota, costs={"requests": cost})
            assert isinstance(answer, Grant)
            permit = answer.permit
            granted[permit.grant_id] = (permit, permit.slot_us, cost, late)
    provider = _RealBucket(limit)
    arrivals = sorted((slot + round(late * limit.lag_us), cost) for _, slot, cost, late in granted.values())
    assert all(provider.admits(at_us, cost) for at_us, cost in arrivals)


async def test_a_call_later_than_the_lag_can_be_refused(redis: Redis) -> None:
    """Without this the claim above could hold because nothing is ever refused."""
    rig, limit = Rig(redis), Bucket(10, S, 5)
    slots = [await rig.slot(Quota("q", (limit,))) for _ in range(40)]
    refused = 0
    for seed in range(20):
        draw = random.Random(seed)
        provider = _RealBucket(limit)
        arrivals = sorted(slot + draw.choice([0, 3 * limit.lag_us]) for slot in slots)
        refused += sum(not provider.admits(at_us, 1) for at_us in arrivals)
    assert refused > 0


@settings(_FLEXIBLE, max_examples=200)
@given(
    windows=st.lists(
        st.tuples(st.integers(1, 8), st.sampled_from([S, 2 * S, 7 * S])), min_size=1, max_size=2, unique=True
    ),
    exact_most=st.sampled_from([2, 2000]),
    adaptive=st.booleans(),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["request"] * 6 + ["penalise", "give_back"]),
            st.sampled_from([0, 0, 1, 20_000, 500_000, 1_010_001, 3 * S]),
            st.integers(1, 3),
            st.sampled_from([0.0, 0.2, 1.0]),
        ),
        min_size=5,
        max_size=50,
    ),
)
async def test_no_period_of_arrivals_exceeds_the_count_at_any_learned_level(
    redis: Redis,
    windows: list[tuple[int, int]],
    exact_most: int,
    adaptive: bool,
    steps: list[tuple[str, int, int, float]],
) -> None:
    """Also while a quota is opened anew after a pause, and at every level that it may have learned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limiter.quota.limits, "EXACT_MOST", exact_most)
        limits = [Window(*window) for window in windows]
        sliced = [limit for limit in limits if not limit.exact]
        quota = Quota("q", tuple(limit for limit in limits if limit.exact or limit is sliced[0]), adaptive)
        rig = Rig(redis)
        arrivals: dict[str, tuple[Permit, float, int]] = {}
        for action, pass_us, wanted, late in steps:
            rig.time.advance(pass_us)
            latest = list(arrivals.values())[-1] if arrivals else None
            if action == "request":
                cost = min(wanted, *(limit.count for limit in quota.limits), 9)
                answer = await rig.request(quota, costs={"requests": cost})
                assert isinstance(answer, Grant)
                permit = answer.permit
                # Calls that leave in time reach the provider within the guard.
                at_us = permit.slot_us + late * 5_000
                arrivals[permit.grant_id] = (permit, at_us, cost)
            elif action == "penalise":
                pause_s = None if late < 0.3 else late * 5
                await rig.limiter.penalise(
                    quota, reason="429", retry_after_s=pause_s, permit=latest[0] if latest else None
                )
            elif latest and latest[0].slot_us > rig.time.now_us:
                await rig.limiter.give_back(latest[0])
                del arrivals[latest[0].grant_id]
        [state] = await rig.limiter.snapshot([quota])
        assert 0.01 <= state.scale <= 1
        for limit in quota.limits:
            for _, first_us, _ in arrivals.values():
                within = [
                    cost
                    for _, at_us, cost in arrivals.values()
                    if first_us <= at_us < first_us + limit.period_us  # type: ignore[union-attr] # a window
                ]
                assert sum(within) <= limit.most


@pytest.mark.parametrize("count", [2, 10, 60])
async def test_after_a_pause_one_period_grants_the_count_and_no_two_at_once(rig: Rig, count: int) -> None:
    limit = Window(count, 10 * S)
    quota = Quota("q", (limit,))
    await rig.limiter.penalise(quota, retry_after_s=5, reason="429")
    slots = [await rig.slot(quota) for _ in range(2 * count)]
    assert slots[0] == 5 * S
    assert slots[count - 1] < slots[0] + limit.span_us
    assert all(later > earlier for earlier, later in itertools.pairwise(slots[:count]))
    assert all(later - first >= limit.span_us for first, later in zip(slots, slots[count:], strict=False))
