"""The guard follows the measured spread of delays, within bounds, and forgets what is over."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.lag import ENOUGH, LEAST_GUARD_US, SAMPLE, Lag, measured_guard_us
from limiter.limits import guard_us

MINUTE_US = 60_000_000
_DELAYS = st.lists(st.integers(-1_000, 500_000), min_size=ENOUGH, max_size=400)


def _after(delays: list[int]) -> Lag:
    lag = Lag()
    for delay in delays:
        lag.observe(delay)
    return lag


def _uniform(least: int, most: int, calls: int, seed: int = 1) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(least, most) for _ in range(calls)]


def test_nothing_is_claimed_before_enough_calls_were_seen() -> None:
    lag = _after([100_000 * (call % 2) for call in range(ENOUGH - 1)])
    assert lag.spread_us is None
    assert measured_guard_us(MINUTE_US, lag.spread_us) == guard_us(MINUTE_US)
    lag.observe(0)
    assert lag.spread_us == 100_000


def test_a_constant_delay_however_long_needs_no_guard_beyond_the_least() -> None:
    lag = _after([300_000] * SAMPLE)
    assert lag.spread_us == 0
    assert measured_guard_us(MINUTE_US, lag.spread_us) == LEAST_GUARD_US


def test_the_spread_of_the_middle_99_8_percent_is_found() -> None:
    spread = _after(_uniform(10_000, 210_000, SAMPLE)).spread_us
    assert spread is not None
    assert 199_000 <= spread <= 200_000


def test_a_stall_in_fewer_than_one_of_a_thousand_calls_does_not_size_the_guard() -> None:
    delays = _uniform(0, 20_000, SAMPLE)
    delays[1000] = delays[2000] = 900_000
    spread = _after(delays).spread_us
    assert spread is not None
    assert spread <= 20_000


def test_half_of_the_round_trip_is_part_of_the_delay() -> None:
    lag = Lag()
    for call in range(ENOUGH):
        lag.observe(1_000, rtt_us=40_000 if call % 2 else 0)
    assert lag.spread_us == 20_000


def test_what_was_long_ago_is_forgotten() -> None:
    lag = _after([*_uniform(0, 400_000, SAMPLE), *[7_000] * SAMPLE])
    assert lag.spread_us == 0


def test_a_refusal_that_our_books_allowed_widens_the_guard_and_fades() -> None:
    lag = _after([0, 20_000] * (SAMPLE // 2))
    lag.refused_in_order()
    assert lag.spread_us == 30_000
    for _ in range(9):
        lag.refused_in_order()
    assert lag.spread_us == 80_000
    for _ in range(SAMPLE // 4):
        lag.observe(0)
        lag.observe(20_000)
    assert lag.spread_us == 50_000
    for _ in range(SAMPLE // 4):
        lag.observe(0)
        lag.observe(20_000)
    assert lag.spread_us == 20_000


@given(delays=_DELAYS, offset=st.integers(0, 10**15))
def test_the_spread_is_one_whole_number_that_a_constant_offset_does_not_change(
    delays: list[int], offset: int
) -> None:
    spread = _after(delays).spread_us
    assert isinstance(spread, int)
    assert 0 <= spread <= max(delays) - min(delays)
    assert _after([delay + offset for delay in delays]).spread_us == spread


@given(st.integers(1, 366 * 86_400_000_000), st.integers(0, 60_000_000))
def test_the_guard_is_at_least_5_ms_and_else_at_most_a_hundredth(period_us: int, spread_us: int) -> None:
    guard = measured_guard_us(period_us, spread_us)
    assert LEAST_GUARD_US <= guard <= max(LEAST_GUARD_US, period_us // 100)
    if LEAST_GUARD_US <= spread_us <= period_us // 100:
        assert guard == spread_us
    assert guard <= measured_guard_us(period_us, spread_us + 1)


@pytest.mark.parametrize("spread_us", [6_000, 50_000, 400_000])
def test_no_window_is_broken_when_delays_stay_within_the_guard(spread_us: int) -> None:
    """A log kept for a period and the guard: whatever arrives in one period at the provider is at most its count."""
    count, guard = 5, measured_guard_us(MINUTE_US, spread_us)
    assert guard == spread_us
    draw = random.Random(spread_us)
    slots = [call // count * (MINUTE_US + guard) for call in range(200)]
    arrivals = sorted(slot + draw.randint(0, spread_us) for slot in slots)
    assert all(later - first >= MINUTE_US for first, later in zip(arrivals, arrivals[count:], strict=False))
