"""The configuration changes while limits are in use: what was used stays used; a limit of a new kind waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from limiter import Bucket, FixedWindow, Grant, InFlight, Later, Permit, Quota, Window, parse_quota
from tests.limiter.conftest import Rig, exact_most

S = 1_000_000
MIDNIGHT_US = 1_795_305_600_000_000  # 2026-11-22 00:00 UTC


@pytest.fixture(autouse=True)
def small_exact_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    exact_most(monkeypatch, 20)


def _quota(spec: object) -> Quota:
    return parse_quota("api", {"requests": spec})


WINDOW = "10/20s"
SLICES = "30/20s"
BUCKET = {"rate": "10/20s", "burst": 10}
FIXED = {"rate": "10/20s", "window": "fixed"}
DAY = {"rate": "12/day", "reset": "UTC"}


async def _granted_now(rig: Rig, quota: Quota) -> int:
    """How many calls are granted at this moment."""
    granted = 0
    while isinstance(await rig.request(quota, max_wait_s=0), Grant):
        granted += 1
    return granted


@pytest.fixture
def morning(rig: Rig) -> Rig:
    """An hour after midnight, and not at the edge of a window by the clock."""
    rig.time.now_us = rig.time.start_us = MIDNIGHT_US + 3605 * S
    return rig


@pytest.mark.parametrize(
    ("before", "used", "after", "left"),
    [
        (WINDOW, 10, "4/20s", 0),
        (WINDOW, 4, "6/20s", 2),
        (WINDOW, 10, "15/20s", 5),
        (WINDOW, 10, SLICES, 20),
        (["5/s", "10/20s"], 5, ["6/s", "30/20s"], 1),
        (["20/s", "10/20s"], 10, ["20/s", "30/20s"], 10),
    ],
)
async def test_a_changed_limit_knows_earlier_use(
    morning: Rig, before: object, used: int, after: object, left: int
) -> None:
    for _ in range(used):
        assert isinstance(await morning.request(_quota(before), max_wait_s=0), Grant)
    assert await _granted_now(morning, _quota(after)) == left


async def test_a_large_window_made_small_waits_for_one_slice_and_knows_earlier_use(rig: Rig) -> None:
    for _ in range(4):
        await rig.slot(_quota(SLICES))
    assert 0 < await rig.slot(_quota(WINDOW)) < 20 * S / 250
    rig.time.advance(S)
    assert await _granted_now(rig, _quota(WINDOW)) == 5


@pytest.mark.parametrize("after", [[WINDOW, BUCKET], [BUCKET, WINDOW]], ids=["window first", "bucket first"])
async def test_a_new_limit_beside_a_large_window_made_small_waits_for_nothing(
    rig: Rig, after: list[object]
) -> None:
    await rig.slot(_quota(SLICES))
    rig.time.advance(S)
    assert await _granted_now(rig, _quota(after)) == 9


async def test_a_million_uses_become_no_more_units_than_can_matter(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact_most(monkeypatch, 2_000)
    for _ in range(3):
        await rig.request(_quota("1000000/20s"), costs={"requests": 300_000}, max_wait_s=0)
        rig.time.advance(S)
    assert await rig.slot(_quota("2000/20s")) > 19 * S
    assert await rig.client.zcard(f"{rig.prefix}:limiter:api:log:requests") == 2_001


KINDS = {"window": WINDOW, "slices": SLICES, "bucket": BUCKET, "fixed": FIXED, "day": DAY}
CHANGES = [(before, after) for before in KINDS for after in KINDS if before != after]
PAUSES = [change for change in CHANGES if set(change) != {"window", "slices"}]


@pytest.mark.parametrize(
    ("before", "after"),
    [("25/20s", "40/60s"), ("40/60s", "25/20s"), (FIXED, {"rate": "10/40s", "window": "fixed"})],
)
async def test_slices_and_windows_by_the_clock_wait_when_their_period_changes(
    morning: Rig, before: object, after: object
) -> None:
    await morning.slot(_quota(before))
    new = _quota(after)
    assert await morning.slot(new) >= new.limits[0].period_us  # type: ignore[union-attr] # a rate
    morning.time.advance(100 * S)
    assert await _granted_now(morning, new) > 0


@pytest.mark.parametrize(("before", "after"), PAUSES)
async def test_a_limit_of_a_new_kind_waits_for_one_period_and_then_grants_in_full(
    morning: Rig, before: str, after: str
) -> None:
    old, new = _quota(KINDS[before]), _quota(KINDS[after])
    await morning.request(old, max_wait_s=0)
    answer = await morning.request(new, max_wait_s=0)
    assert isinstance(answer, Later)
    [state] = await morning.limiter.snapshot([new])
    assert state.units[0].available == 0
    # A window by the clock ends before the period begins, and a day is over at midnight.
    longest_s = 23 * 3600 + 10 if after == "day" else 41 if before == "fixed" else 21
    assert (longest_s - 22) * S < answer.retry_us <= longest_s * S
    morning.time.advance(answer.retry_us - 1)
    assert await _granted_now(morning, new) == 0
    morning.time.advance(longest_s * S - answer.retry_us + 1)
    assert await _granted_now(morning, new) == new.limits[0].most


@pytest.mark.parametrize("idle_s", [41, 2 * 86_400])
@pytest.mark.parametrize(("before", "after"), PAUSES)
async def test_an_idle_limit_changes_its_kind_without_a_wait(
    morning: Rig, before: str, after: str, idle_s: int
) -> None:
    old, new = _quota(KINDS[before]), _quota(KINDS[after])
    await morning.request(old)
    morning.time.advance(idle_s * S)
    # The use of a day has no time, so it may be of this moment; and every use counts until midnight.
    waits = idle_s == 41 and "day" in (before, after)
    assert await _granted_now(morning, new) == (0 if waits else new.limits[0].most)


async def test_a_bucket_knows_its_use_when_its_newest_charges_were_given_back(rig: Rig) -> None:
    bucket = _quota({"rate": "100/20s", "burst": 100})
    permits = [await rig.permit(bucket) for _ in range(98)]
    for permit in permits:
        await rig.limiter.give_back(permit)
    assert await rig.client.zcard(f"{rig.prefix}:limiter:api:tokens:requests") == 1
    assert await rig.slot(_quota(WINDOW)) >= 20 * S


async def test_a_kind_whose_use_was_given_back_keeps_the_wait_of_the_one_before(morning: Rig) -> None:
    fixed = _quota({"rate": "10/s", "window": "fixed"})
    await morning.slot(_quota(WINDOW))
    await morning.request(fixed, max_wait_s=0)
    morning.time.advance(2 * S)
    await morning.limiter.give_back(await morning.permit(fixed))
    assert 17 * S < await morning.slot(_quota(BUCKET)) - 2 * S < 20 * S


async def test_changing_forth_and_back_forgets_nothing(rig: Rig) -> None:
    window, bucket = _quota(WINDOW), _quota({"rate": "10/s", "burst": 10})
    for _ in range(5):
        await rig.slot(window)
    await rig.request(bucket, max_wait_s=0)
    rig.time.advance(2 * S)
    assert await _granted_now(rig, bucket) == 10
    assert await _granted_now(rig, window) == 0


@pytest.mark.parametrize("between", ["slices", "bucket", "fixed", "day"])
async def test_a_kind_that_granted_nothing_keeps_the_wait_of_the_one_before(
    morning: Rig, between: str
) -> None:
    window = _quota(WINDOW)
    for _ in range(10):
        await morning.slot(window)
    await morning.request(_quota(KINDS[between]), max_wait_s=0)
    assert await _granted_now(morning, window) == 0


async def test_slots_ahead_of_a_change_count_from_their_own_time(rig: Rig) -> None:
    for _ in range(11):
        await rig.slot(_quota(WINDOW))
    assert await rig.slot(_quota(BUCKET)) >= 2 * 20 * S


async def test_all_limits_of_a_unit_wait_when_one_changes_its_kind(rig: Rig) -> None:
    await rig.request(_quota(FIXED))
    both = _quota([WINDOW, BUCKET])
    assert await rig.slot(both) >= 20 * S
    rig.time.advance(41 * S)
    assert await _granted_now(rig, both) > 0


@pytest.mark.parametrize(("before", "after"), CHANGES)
async def test_a_reservation_older_than_its_limits_kind_is_left_like_any_other(
    morning: Rig, before: str, after: str
) -> None:
    retries = []
    for name in ("reserved", "plain"):
        old, new = (parse_quota(name, {"requests": KINDS[kind]}) for kind in (before, after))
        await morning.request(old, costs={"requests": old.limits[0].most}, max_wait_s=0)
        costs = {"requests": min(old.limits[0].most, new.limits[0].most)}
        if name == "reserved":
            later = await morning.request(old, costs=costs, max_wait_s=0, request_id=name)
            assert isinstance(later, Later)
            reserved = await morning.request(old, costs=costs, max_wait_s=0, request_id=name, after=later)
            assert isinstance(reserved, Later)
            assert reserved.reservation is not None
        answer = await morning.request(new, costs=costs, max_wait_s=0, request_id=name)
        retries.append(answer.retry_us if isinstance(answer, Later) else 0)
    assert retries[0] == retries[1]


async def test_a_unit_that_loses_one_of_two_limits_keeps_the_others_books(rig: Rig) -> None:
    both = _quota([WINDOW, BUCKET])
    for _ in range(10):
        await rig.slot(both)
    assert isinstance(await rig.request(_quota(WINDOW), max_wait_s=0), Later)
    assert isinstance(await rig.request(_quota(BUCKET), max_wait_s=0), Later)


# The kinds that a quota may have one after the other, all with one period, so that earlier use is known.
_CONFIGURATIONS = st.builds(
    Quota,
    st.just("q"),
    st.tuples(
        st.one_of(
            st.builds(Window, st.integers(1, 6), st.just(S)),
            st.builds(Window, st.integers(21, 24), st.just(S)),
            st.builds(Bucket, st.integers(1, 5), st.just(S), st.integers(1, 4)),
            st.builds(FixedWindow, st.integers(1, 6), st.just(S)),
        ),
        st.builds(InFlight, st.integers(2, 9)),
    ),
    st.booleans(),
)


@dataclass
class _Used:
    permit: Permit
    units: int
    counts_until_us: int


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    configurations=st.lists(_CONFIGURATIONS, min_size=2, max_size=4),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["request"] * 7 + ["change", "change", "release", "give_back", "penalise"]),
            st.sampled_from([0, 0, 0, 1, 30_000, 333_000, 700_000, 1_010_000]),
            st.integers(1, 2),
            st.sampled_from([0.0, 0.4, 60.0]),
            st.integers(0, 99),
        ),
        min_size=8,
        max_size=50,
    ),
)
async def test_no_grant_exceeds_the_present_limit_after_any_changes(
    redis: Redis, configurations: list[Quota], steps: list[tuple[str, int, int, float, int]]
) -> None:
    """Up, down, to another kind and back, learning or not, with grants outstanding that were made under others."""
    rig, quota = Rig(redis, lease_s=5), configurations[0]
    used: list[_Used] = []
    for action, pass_us, wanted, max_wait_s, pick in steps:
        rig.time.advance(pass_us)
        now_us = rig.time.now_us
        rate, places = quota.limits
        assert isinstance(places, InFlight)
        call = used[pick % len(used)] if used else None
        if action == "change":
            quota = configurations[pick % len(configurations)]
        elif action == "request":
            units = min(wanted, rate.most)
            answer = await rig.request(quota, costs={"requests": units}, max_wait_s=max_wait_s)
            if isinstance(answer, Grant):
                permit = answer.permit
                used.append(_Used(permit, units, permit.slot_us + 5 * S))
                assert sum(one.counts_until_us > now_us for one in used) <= places.count
                _check_new(rate, used)
        elif action == "penalise":
            await rig.limiter.penalise(quota, reason="429", retry_after_s=max_wait_s / 60)
        elif call and action == "give_back" and call.permit.slot_us > now_us:
            await rig.limiter.give_back(call.permit)
            used.remove(call)
        elif call and action == "release":
            await rig.limiter.release(call.permit)
            call.counts_until_us = min(call.counts_until_us, now_us)


def _check_new(rate: object, used: Sequence[_Used]) -> None:
    """Every period with the newest call in it holds no more than the limit of now, former grants included."""
    new_us = used[-1].permit.slot_us
    if isinstance(rate, FixedWindow):
        number = new_us // rate.period_us
        within = [one.units for one in used if one.permit.slot_us // rate.period_us == number]
        assert sum(within) <= rate.count
    if not isinstance(rate, Window):
        return
    near = [one for one in used if abs(one.permit.slot_us - new_us) < rate.span_us]
    for first in near:
        first_us = first.permit.slot_us
        if first_us <= new_us:
            within = [one.units for one in near if first_us <= one.permit.slot_us < first_us + rate.span_us]
            assert sum(within) <= rate.count


async def test_fewer_places_wait_for_calls_to_end_and_more_are_free_at_once(
    rig: Rig,
) -> None:
    five, two = parse_quota("api", {"in_flight": 5}), parse_quota("api", {"in_flight": 2})
    permits = [await rig.permit(five) for _ in range(5)]
    for permit in permits[:3]:
        assert isinstance(await rig.request(two, max_wait_s=0), Later)
        await rig.limiter.release(permit)
    assert isinstance(await rig.request(two, max_wait_s=0), Later)
    assert await rig.limiter.renew(permits[3:]) == []
    assert await _granted_now(rig, five) == 3


async def test_learning_that_is_switched_off_and_on_again_goes_on_where_it_was(rig: Rig) -> None:
    learns = parse_quota("api", {"requests": "10/20s", "adaptive": True})
    fixed = _quota(WINDOW)
    await rig.limiter.penalise(learns, reason="429", retry_after_s=0, permit=await rig.permit(learns))
    [learned] = await rig.limiter.snapshot([learns])
    assert learned.scale < 1
    rig.time.advance(2 * S)
    await rig.permit(fixed)  # the first one after the pause goes alone
    rig.time.advance(41 * S)
    assert await _granted_now(rig, fixed) == 10
    [state] = await rig.limiter.snapshot([learns])
    assert state.scale == learned.scale
    assert state.units[0].available == 0


async def test_looking_with_another_configuration_moves_no_books(rig: Rig) -> None:
    quota = parse_quota("api", {"requests": "20/min"})
    for _ in range(20):
        await rig.slot(quota)
    before = await rig.dump()
    await rig.limiter.explain([parse_quota("api", {"requests": {"rate": "20/min", "burst": 20}})])
    assert await rig.dump() == before
    assert isinstance(await rig.request(quota, max_wait_s=0), Later)
