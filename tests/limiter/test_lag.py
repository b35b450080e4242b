"""The guard follows the measured spread of delays, within bounds, and forgets what is over."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from limiter.lag import ENOUGH, SAMPLE, Lag

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
    lag.observe(0)
    assert lag.spread_us == 100_000


def test_a_constant_delay_however_long_needs_no_guard_beyond_the_least() -> None:
    lag = _after([300_000] * SAMPLE)
    assert lag.spread_us == 0


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


def test_old_delays_are_forgotten() -> None:
    lag = _after([*_uniform(0, 400_000, SAMPLE), *[7_000] * SAMPLE])
    assert lag.spread_us == 0


@given(delays=_DELAYS, offset=st.integers(0, 10**15))
def test_the_spread_is_one_whole_number_that_a_constant_offset_does_not_change(
    delays: list[int], offset: int
) -> None:
    spread = _after(delays).spread_us
    assert isinstance(spread, int)
    assert 0 <= spread <= max(delays) - min(delays)
    assert _after([delay + offset for delay in delays]).spread_us == spread
