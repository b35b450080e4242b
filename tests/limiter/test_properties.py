"""Whatever the order of calls: no window, bucket or set of leases ever holds more than its quota allows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from limiter import Bucket, Grant, InFlight, Permit, Quota, Window
from limiter.quota import Limit, guard_us

from .conftest import Rig

_PERIODS_US = st.sampled_from([100_000, 1_000_000, 1_000_003])


def _limits(unit: str) -> st.SearchStrategy[Limit]:
    return st.one_of(
        st.builds(Window, st.integers(1, 5), _PERIODS_US, st.just(unit)),
        st.builds(Bucket, st.integers(1, 5), _PERIODS_US, st.integers(1, 3), st.just(unit)),
    )


@st.composite
def _quotas(draw: st.DrawFn) -> list[Quota]:
    quotas = []
    for name in ("a", "b"):
        limits = [draw(_limits("requests")), draw(_limits("images")), InFlight(draw(st.integers(1, 6)))]
        kept = draw(st.lists(st.sampled_from(limits), unique=True, min_size=1))
        quotas.append(Quota(name, tuple(kept)))
    return quotas


@dataclass
class _Call:
    """A granted call as the provider would see it."""

    slot_us: int
    quotas: tuple[str, ...]
    costs: dict[str, int]
    permit: Permit


_Step = tuple[str, int, str, dict[str, int], float, int]
_STEPS: st.SearchStrategy[list[_Step]] = st.lists(
    st.tuples(
        st.sampled_from(["ask"] * 8 + ["give_back", "give_back", "release", "penalise"]),
        # Time moves by nothing, by a little, and to the very edges of the windows.
        st.sampled_from([0, 0, 0, 1, 7_000, 33_333, 55_000, 105_000, 510_000, 1_010_000]),
        st.sampled_from(["a", "a", "b", "ab"]),
        st.fixed_dictionaries({"requests": st.integers(0, 2), "images": st.integers(0, 3)}),
        st.sampled_from([0.0, 0.05, 2.0, 60.0]),
        st.integers(0, 1000),
    ),
    min_size=5,
    max_size=40,
)


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(quotas=_quotas(), steps=_STEPS)
async def test_no_order_of_calls_gets_more_than_the_quota(
    server: Redis, quotas: list[Quota], steps: list[_Step]
) -> None:
    rig = Rig(server, lease_s=0.5)
    calls: list[_Call] = []
    live: list[tuple[int, _Call]] = []
    paused_until_us = 0
    for action, pass_us, names, costs, max_wait_s, pick in steps:
        rig.time.advance(pass_us)
        now_us = rig.time.now_us
        live = [(expiry_us, call) for expiry_us, call in live if expiry_us > now_us]
        chosen = [quota for quota in quotas if quota.name in names]
        if action == "ask":
            costs = {unit: min(cost, _most(quotas, unit)) for unit, cost in costs.items()}
            answer = await rig.ask(*chosen, costs=costs, max_wait_s=max_wait_s)
            if isinstance(answer, Grant):
                assert answer.wait_us <= max_wait_s * 1e6
                slot_us = now_us + answer.wait_us
                assert "a" not in names or slot_us >= paused_until_us
                call = _Call(slot_us, tuple(quota.name for quota in chosen), costs, answer.permit)
                calls.append(call)
                live.append((slot_us + 500_000, call))
                _check_in_flight(chosen, [call for _, call in live])
        elif action == "penalise":
            await rig.limiter.penalise("a", retry_after_s=pass_us / 1e6, reason="429")
            paused_until_us = max(paused_until_us, now_us + pass_us)
        elif calls:
            call = calls[pick % len(calls)]
            live = [(expiry_us, other) for expiry_us, other in live if other is not call]
            if action == "give_back":
                await rig.limiter.give_back(call.permit)
                calls.remove(call)
            else:
                await rig.limiter.release(call.permit)
    for quota in quotas:
        for limit in quota.limits:
            _check_rate(limit, [call for call in calls if quota.name in call.quotas])


def _most(quotas: list[Quota], unit: str) -> int:
    """The largest cost that every quota can grant."""
    limits = [limit for quota in quotas for limit in quota.limits if limit.unit == unit]
    return min((limit.burst if isinstance(limit, Bucket) else limit.count for limit in limits), default=9)


def _check_rate(limit: Limit, calls: list[_Call]) -> None:
    """Brute force: every interval that begins with a call."""
    if isinstance(limit, InFlight):
        return
    uses = sorted((call.slot_us, call.costs[limit.unit]) for call in calls if call.costs[limit.unit])
    for first_us, _ in uses:
        for last_us in {slot_us for slot_us, _ in uses if slot_us >= first_us}:
            used = sum(cost for slot_us, cost in uses if first_us <= slot_us <= last_us)
            length_us = last_us - first_us
            if isinstance(limit, Bucket):
                assert used * limit.period_us <= limit.burst * limit.period_us + length_us * limit.count
            elif length_us < limit.period_us + guard_us(limit.period_us):
                assert used <= limit.count


def _check_in_flight(quotas: list[Quota], live: list[_Call]) -> None:
    for quota in quotas:
        for limit in quota.limits:
            if isinstance(limit, InFlight):
                assert sum(quota.name in call.quotas for call in live) <= limit.count


@pytest.mark.parametrize("late_us", [0, 4_999, 5_000])
async def test_arrivals_later_by_up_to_the_guard_still_fit_the_providers_window(
    rig: Rig, late_us: int
) -> None:
    quota = Quota("q", (Window(3, 500_000),))
    assert guard_us(500_000) == 5_000
    slots = [await rig.slot(quota) for _ in range(12)]
    # The worst case: everything in the earlier half of a pair is late, everything in the later half is not.
    for first, last in zip(slots, slots[3:], strict=False):
        assert last - (first + late_us) >= 500_000
