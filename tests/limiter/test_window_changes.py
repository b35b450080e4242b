"""A window's count grows beyond its exact book, or shrinks into it: nothing waits, and nothing is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from limiter import Grant, Later, Permit, Quota, Window
from limiter.quota.limits import EXACT_MOST
from limiter.scripts.grants import _ACQUIRE
from tests.limiter.conftest import Rig, exact_most, on_valkey

S = 1_000_000
SPAN_US = Window(1, S).span_us
# A charge is given back before its slot or so soon after it.
SOON_US = S // 10
SLICE_US = -(-SPAN_US // 256)
# The largest count of an exact book, here.
MOST = 8


@pytest.fixture(autouse=True)
def small_exact_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    exact_most(monkeypatch, MOST)


def _quota(count: int, beside: int | None = None) -> Quota:
    """A window of a second, and maybe a shorter one of the same unit."""
    return Quota("q", (Window(count, S), *((Window(beside, S // 10),) if beside else ())))


@dataclass
class _Use:
    """A charge: a grant, or the reservation of a denied request."""

    permit: Permit
    units: int
    denial: Later | None = None

    @property
    def slot_us(self) -> int:
        return self.permit.slot_us


def _check_new(quota: Quota, uses: list[_Use], new: _Use) -> None:
    """Every window with the new use in it holds no more than each limit of its replica."""
    for limit in quota.limits:
        assert isinstance(limit, Window)
        for first in uses:
            if new.slot_us - limit.span_us < first.slot_us <= new.slot_us:
                end_us = first.slot_us + limit.span_us
                assert sum(use.units for use in uses if first.slot_us <= use.slot_us < end_us) <= limit.count


def _explains(quota: Quota, uses: list[_Use], units: int, now_us: int) -> bool:
    """Whether uses explain that these units must wait: a window is full, give or take a slice at either end."""
    return any(
        sum(use.units for use in uses if use.slot_us > now_us - limit.span_us - 2 * SLICE_US) + units
        > limit.count
        for limit in quota.limits
        if isinstance(limit, Window)
    )


_QUOTAS = st.tuples(
    st.one_of(
        st.builds(_quota, st.integers(1, MOST), st.sampled_from([None, 2, MOST])),
        st.builds(lambda count: Quota("q", (Window(count, S // 10),)), st.integers(1, MOST)),
    ),
    st.builds(_quota, st.integers(MOST + 1, 12), st.sampled_from([None, 2, MOST])),
)


@on_valkey
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    quotas=_QUOTAS,
    steps=st.lists(
        st.tuples(
            st.sampled_from(["request"] * 6 + ["retry"] * 3 + ["give back"] * 2),
            st.sampled_from([0, 0, 1, SLICE_US, 30_000, 333_000, 505_000, SPAN_US]),
            st.integers(1, 2),
            st.sampled_from([0.0, 0.0, 0.4, 3.0]),
            st.integers(0, 99),
        ),
        min_size=8,
        max_size=60,
    ),
)
async def test_replicas_of_both_counts_exceed_neither_and_wait_for_uses_alone(
    server: Redis, quotas: tuple[Quota, Quota], steps: list[tuple[str, int, int, float, int]]
) -> None:
    """Grants, reservations, and charges that are given back under the other replica's book."""
    rig = Rig(server)
    # A shorter window does not keep the use that the larger one needs, so the larger one is first.
    uses = [_Use(await rig.permit(quotas[1]), 1)]
    refused: list[tuple[str, int, Later]] = []
    newest_us = uses[0].slot_us
    for number, (action, pass_us, wanted, max_wait_s, pick) in enumerate(steps):
        rig.time.advance(pass_us)
        quota, now_us = quotas[pick % 2], rig.time.now_us
        if action == "give back":
            if recent := [use for use in uses if use.slot_us > now_us - SOON_US]:
                use = recent[pick % len(recent)]
                uses.remove(use)
                await rig.limiter.give_back(use.permit)
            continue
        request_id, units, denial = f"request-{number}", min(wanted, quotas[0].limits[0].most), None
        again = [
            each for each in refused if not each[2].charged or each[2].charged.slot_us > now_us - SOON_US
        ]
        if action == "retry" and again:
            request_id, units, denial = again[pick % len(again)]
            refused.remove(again[pick % len(again)])
            uses = [use for use in uses if use.denial is not denial]
        answer = await rig.request(
            quota, costs={"requests": units}, max_wait_s=max_wait_s, request_id=request_id, after=denial
        )
        if isinstance(answer, Later):
            refused.append((request_id, units, answer))
        if answer.charged:
            use = _Use(answer.charged, units, answer if isinstance(answer, Later) else None)
            uses.append(use)
            _check_new(quota, uses, use)
        if isinstance(answer, Later) or answer.wait_us:
            others = [use for use in uses if use.permit is not answer.charged]
            # The slice of the newest use, even if that was given back, may have to end first.
            assert newest_us > now_us - 2 * SLICE_US or _explains(quota, others, units, now_us)
        newest_us = max(newest_us, *(use.slot_us for use in uses), 0)


async def test_no_slot_is_before_a_use_whose_place_in_its_slice_is_unknown(rig: Rig) -> None:
    """The first use ends its slice and the second begins its own: they are nearer than the ends of these slices."""
    rig.time.now_us = rig.time.start_us = rig.time.start_us // SLICE_US * SLICE_US - 1
    first = await rig.permit(_quota(24))
    rig.time.advance(255 * SLICE_US + 1)
    await rig.permit(_quota(24))
    third = await rig.permit(_quota(2))
    assert third.slot_us >= first.slot_us + SPAN_US


async def test_two_counts_side_by_side_reach_at_least_the_smaller_pace(rig: Rig) -> None:
    replicas = [_quota(20), _quota(24)]
    denials: list[Later | None] = [None, None]
    numbers, slots_us = [0, 0], []
    for step in range(500):
        mine = step % 2
        answer = await rig.request(
            replicas[mine], request_id=f"{mine}:{numbers[mine]}", max_wait_s=0.05, after=denials[mine]
        )
        denials[mine] = answer if isinstance(answer, Later) else None
        if isinstance(answer, Grant):
            slots_us.append(answer.permit.slot_us)
            numbers[mine] += 1
        rig.time.advance(S // 100)
    assert len(slots_us) >= 20 * 5 / 1.02
    for first_us in slots_us:
        assert sum(first_us <= slot_us < first_us + SPAN_US for slot_us in slots_us) <= 24


async def _granted_now(rig: Rig, *limits: Window) -> int:
    """How many calls are granted at this moment."""
    granted = 0
    while isinstance(await rig.request(Quota("q", limits), max_wait_s=0), Grant):
        granted += 1
    return granted


async def test_a_count_that_shrinks_below_the_use_and_grows_back_forgets_nothing(rig: Rig) -> None:
    for _ in range(22):
        await rig.permit(_quota(24))
        rig.time.advance(SLICE_US)
    assert isinstance(await rig.request(_quota(4), max_wait_s=0), Later)
    rig.time.advance(SLICE_US)
    assert await _granted_now(rig, *_quota(24).limits) == 2  # type: ignore[arg-type] # windows


SMALL, LARGE = Window(5, S), Window(30, 600 * S)


async def test_a_small_window_whose_large_neighbour_goes_and_comes_knows_all_use(rig: Rig) -> None:
    rig.time.now_us = rig.time.start_us = rig.time.start_us // LARGE.span_us * LARGE.span_us
    assert await _granted_now(rig, SMALL, LARGE) == 5
    rig.time.advance(SMALL.span_us)
    await rig.permit(Quota("q", (SMALL, LARGE)))
    assert await _granted_now(rig, SMALL) == 4, "no wait for a slice of the large window"
    rig.time.advance(200 * SMALL.span_us)
    assert await _granted_now(rig, SMALL) == 5, "nor later"
    assert await _granted_now(rig, LARGE) == 30 - 15


async def test_a_longer_window_knows_the_use_of_a_large_one_beside_a_small_one(rig: Rig) -> None:
    for _ in range(7):
        await rig.permit(Quota("q", (SMALL, LARGE)))
        rig.time.advance(S)
    rig.time.advance(LARGE.period_us // 100)
    assert await _granted_now(rig, Window(MOST, 300 * S)) == 1


async def test_slices_ahead_become_no_more_units_and_commands_than_matter(redis: Redis) -> None:
    rig, quota = Rig(redis), _quota(1_000_000)
    slice_number = (await rig.permit(quota)).slot_us // SLICE_US
    ahead: dict[Any, Any] = {slice_number + number: 50 for number in range(1, 100)}
    await redis.hset(f"{rig.prefix}:limiter:q:slices:requests", mapping=ahead)
    await redis.config_resetstat()
    assert await rig.slot(_quota(MOST)) >= 99 * SLICE_US
    assert await redis.zcard(f"{rig.prefix}:limiter:q:log:requests") == MOST + 1
    assert (await redis.info("commandstats"))["cmdstat_zadd"]["calls"] == 2


async def test_units_ahead_that_are_left_out_are_waited_for(rig: Rig) -> None:
    keys, now = f"{rig.prefix}:limiter:q:", rig.time.now_us // SLICE_US
    farthest = {f"g:{unit}": (now + 300) * SLICE_US for unit in range(MOST)}
    await rig.client.zadd(f"{keys}log:requests", farthest)
    mapping: dict[Any, Any] = {"width": SLICE_US, now + 10: MOST, now + 300: MOST}
    await rig.client.hset(f"{keys}slices:requests", mapping=mapping)
    assert (await rig.permit(_quota(MOST))).slot_us > (now + 300) * SLICE_US


def test_both_halves_of_the_limiter_agree_on_the_largest_exact_count() -> None:
    assert f"LOG_MOST = {EXACT_MOST}\n" in _ACQUIRE.source
