"""A window's count grows beyond its exact book, or shrinks into it: nothing waits, and nothing is forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import limiter.quota.limits
from limiter import Grant, Later, Permit, Quota, Window
from tests.limiter.conftest import Rig, on_valkey

S = 1_000_000
SPAN_US = Window(1, S).span_us
# A charge is given back before its slot or so soon after it.
SOON_US = S // 10
SLICE_US = -(-SPAN_US // 256)


@pytest.fixture(autouse=True)
def small_exact_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter.quota.limits, "EXACT_MOST", 20)


def _quota(count: int, beside: int | None = None) -> Quota:
    """A window of a second, and maybe a shorter one of the same unit."""
    return Quota("q", (Window(count, S), *((Window(beside, S // 10),) if beside else ())))


@dataclass
class _Use:
    """What is charged: a grant, or the reservation of a denied request."""

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
    st.builds(_quota, st.integers(1, 8), st.sampled_from([None, 2, 20])),
    st.builds(_quota, st.integers(21, 24), st.sampled_from([None, 2, 20])),
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
    uses: list[_Use] = []
    refused: list[tuple[str, int, Later]] = []
    newest_us = 0
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
