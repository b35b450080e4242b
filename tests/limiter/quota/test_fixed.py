"""Windows that the provider begins by the clock: all of each can be used, and nothing near its edges."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from limiter import FixedWindow, Grant, Quota, parse_quota
from tests.limiter.conftest import Rig, on_valkey

S = 1_000_000
MINUTE = parse_quota("api", {"requests": {"rate": "20/min", "window": "fixed"}})
GUARD = 500_000


def _at(rig: Rig, second: float) -> None:
    """Put the time to so many seconds of a minute."""
    rig.time.now_us = rig.time.start_us = 1_795_000_020_000_000 // (60 * S) * 60 * S + round(second * S)


async def test_all_of_a_window_and_all_of_the_next_can_be_used(rig: Rig) -> None:
    _at(rig, 59)
    slots = [await rig.slot(MINUTE) for _ in range(41)]
    assert slots[:20] == [0] * 20
    assert slots[20:40] == [S + GUARD] * 20
    assert slots[40] == 61 * S + GUARD


@pytest.mark.parametrize(("second", "slot_us"), [(0.2, 300_000), (0.5, 0), (59.5, 0), (59.6, 900_000)])
async def test_nothing_is_sent_near_an_edge(rig: Rig, second: float, slot_us: int) -> None:
    _at(rig, second)
    assert await rig.slot(MINUTE) == slot_us


async def test_a_unit_given_back_is_free_again(rig: Rig) -> None:
    _at(rig, 10)
    permits = [await rig.permit(MINUTE) for _ in range(20)]
    await rig.limiter.give_back(permits[3])
    await rig.limiter.give_back(permits[3])
    assert [await rig.slot(MINUTE) for _ in range(2)] == [0, 50 * S + GUARD]


async def test_a_call_that_is_sent_in_the_next_window_counts_there(rig: Rig) -> None:
    _at(rig, 59.5)
    late = await rig.permit(MINUTE)
    rig.time.advance(2 * S)
    await rig.limiter.retime(late, [MINUTE])
    [state] = await rig.limiter.snapshot([MINUTE])
    assert state.units[0].available == 19
    assert [await rig.slot(MINUTE) for _ in range(20)][18:] == [2 * S, 60 * S + S]


async def test_a_changed_period_waits_for_the_old_window_and_one_of_the_new(rig: Rig) -> None:
    _at(rig, 10)
    await rig.slot(MINUTE)
    often = parse_quota("api", {"requests": {"rate": "5/10s", "window": "fixed"}})
    assert [await rig.slot(often) for _ in range(6)] == [60 * S + GUARD] * 5 + [70 * S + GUARD]


async def test_a_sliding_window_that_becomes_a_fixed_one_waits_for_one_period(rig: Rig) -> None:
    _at(rig, 10)
    sliding = parse_quota("api", {"requests": "20/min"})
    for _ in range(15):
        await rig.slot(sliding)
    assert [await rig.slot(MINUTE) for _ in range(21)][19:] == [60 * S, 110 * S + GUARD]


async def test_a_fixed_window_that_becomes_a_sliding_one_ends_before_the_wait(rig: Rig) -> None:
    _at(rig, 10)
    for _ in range(15):
        await rig.slot(MINUTE)
    sliding = parse_quota("api", {"requests": "20/min"})
    span = 60 * S + 100_000
    assert [await rig.slot(sliding) for _ in range(21)][19:] == [50 * S + span, 50 * S + 2 * span]


@on_valkey
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    count=st.integers(1, 4),
    period_us=st.sampled_from([100_000, 1_000_000, 700_003]),
    requests=st.lists(
        st.tuples(st.integers(0, 1_500_000), st.integers(1, 3), st.sampled_from([0.0, 0.3, 5.0])), max_size=25
    ),
    skew=st.floats(-1, 1),
)
async def test_a_provider_clock_within_the_guard_never_counts_too_many(
    server: Redis, count: int, period_us: int, requests: list[tuple[int, int, float]], skew: float
) -> None:
    rig = Rig(server)
    limit = FixedWindow(count, period_us)
    quota = Quota("q", (limit,))
    arrivals: dict[int, int] = {}
    for pass_us, cost, max_wait_s in requests:
        rig.time.advance(pass_us)
        cost = min(cost, count)
        answer = await rig.request(quota, costs={"requests": cost}, max_wait_s=max_wait_s)
        if isinstance(answer, Grant):
            # Anything within the guard: delay and the difference of the clocks together.
            seen_us = rig.time.now_us + answer.wait_us + round(skew * (limit.guard_us - 1))
            window = seen_us // period_us
            arrivals[window] = arrivals.get(window, 0) + cost
    assert all(used <= count for used in arrivals.values())
