"""The simulator's quotas, in invented time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.simulator.ledger import max_in_window
from providers.simulator.quotas import KeyQuotas, TokenBucket
from providers.simulator.settings import Bucket, Rate, SimulatorSettings


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


gaps = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 4)), max_size=60)


@given(gaps, st.integers(1, 8), st.floats(0.1, 10))
def test_a_sliding_window_never_holds_more_than_its_count(
    arrivals: list[tuple[float, int]], count: int, window_s: float
) -> None:
    clock = Clock()
    quotas = KeyQuotas(SimulatorSettings(images=Rate(count, window_s)), clock)
    admitted = []
    for gap_s, cost in arrivals:
        clock.now_s += gap_s
        if quotas.admit(cost) is None:
            admitted.append((clock.now_s, cost))
            quotas.leave()
    assert max_in_window(admitted, window_s) <= count


@given(gaps, st.integers(4, 8), st.floats(0.1, 10))
def test_a_call_that_waits_as_long_as_the_refusal_says_is_let_in(
    arrivals: list[tuple[float, int]], count: int, window_s: float
) -> None:
    clock = Clock()
    quotas = KeyQuotas(SimulatorSettings(images=Rate(count, window_s)), clock)
    for gap_s, cost in arrivals:
        clock.now_s += gap_s
        refusal = quotas.admit(cost)
        if refusal is not None:
            assert 0 < refusal.retry_after_s <= window_s * 1.000001
            clock.now_s += refusal.retry_after_s + 1e-9
            assert quotas.admit(cost) is None


@given(st.lists(st.integers(0, 40), max_size=200), st.integers(1, 4), st.integers(1, 20))
def test_a_bucket_lets_in_what_a_count_of_tokens_in_whole_numbers_does(
    gaps: list[int], burst: int, count: int
) -> None:
    clock = Clock()
    quotas = KeyQuotas(SimulatorSettings(requests=Bucket(Rate(count, 10), burst)), clock)
    tenths, tokens = 0, burst * 100  # a token is a hundred parts, and each tenth of a second brings `count`
    for gap in gaps:
        tenths += gap
        clock.now_s = tenths / 10
        tokens = min(burst * 100, tokens + gap * count)
        assert (quotas.admit(1) is None) is (tokens >= 100)
        tokens -= 100 if tokens >= 100 else 0


def test_a_full_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    quotas = KeyQuotas(SimulatorSettings(requests=Bucket(Rate(8, 1), 4)), clock)
    assert quotas.left("requests") == 4
    assert [quotas.admit(1) is None for _ in range(5)] == [True] * 4 + [False]
    refusal = quotas.admit(1)
    assert refusal is not None
    assert refusal.retry_after_s == 0.125
    clock.now_s += 0.125
    assert quotas.admit(1) is None
    assert quotas.left("requests") == 0


def test_a_bucket_counts_an_earlier_arrival_that_is_handled_later_at_its_own_time() -> None:
    bucket = TokenBucket(Bucket(Rate(1, 1), 1))
    bucket.add(10.0, 1)
    assert bucket.wait_s(8.5, 1) == 0.0, "its token was back before the other call"
    assert bucket.wait_s(9.5, 1) == 0.5, "it would have left too little for the other call"


@pytest.mark.parametrize("text", ["8/s", "8/s burst", "8/s burst 0", "8/s burst x"])
def test_a_text_that_is_no_bucket_is_refused(text: str) -> None:
    assert Bucket.parse("8/s burst 4") == Bucket(Rate(8, 1), 4)
    with pytest.raises(ValueError, match="bucket"):
        Bucket.parse(text)


def test_a_refused_call_uses_nothing() -> None:
    clock = Clock()
    quotas = KeyQuotas(SimulatorSettings(images=Rate(1, 10)), clock)
    assert quotas.admit(1) is None
    clock.now_s += 9
    assert quotas.admit(1) is not None
    clock.now_s += 1
    assert quotas.admit(1) is None


def test_a_slot_is_free_again_when_its_call_leaves() -> None:
    quotas = KeyQuotas(SimulatorSettings(in_flight=2), Clock())
    assert quotas.admit(1) is None
    assert quotas.admit(1) is None
    refusal = quotas.admit(1)
    assert refusal is not None
    assert refusal.quota == "in_flight"
    quotas.leave()
    assert quotas.admit(1) is None


def test_the_quota_with_the_longest_wait_is_named() -> None:
    quotas = KeyQuotas(SimulatorSettings(images=Rate(1, 60), requests=Rate(1, 5)), Clock())
    assert quotas.admit(1) is None
    refusal = quotas.admit(1)
    assert refusal is not None
    assert (refusal.quota, refusal.retry_after_s) == ("images", 60)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("12/6s", Rate(12, 6)), ("20/min", Rate(20, 60)), ("3/500ms", Rate(3, 0.5)), ("9/s", Rate(9, 1))],
)
def test_rates_are_read(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "12", "12/6", "0/6s", "5/0s", "x/6s"])
def test_a_text_that_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        Rate.parse(text)
