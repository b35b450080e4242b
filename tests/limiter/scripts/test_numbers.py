"""No rate drifts: slots are those of exact arithmetic, after any number of grants and near the end of exact doubles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import limiter
from limiter import Bucket, CalendarDay, Grant, InFlight, LuaScript, Quota, Window
from limiter.script import _expand
from tests.limiter.conftest import Rig

S = 1_000_000
DAY = 86_400 * S
# Times are doubles in the scripts: exact up to here, which is in the year 2255.
LAST_US = 2**53
NOW_US = 1_795_000_000_000_003
_INCLUDES = Path(limiter.__file__).parent / "scripts" / "include"
RATES = [
    Bucket(59, 60 * S, 3),
    Bucket(100, 60 * S, 5),
    Bucket(10_000, S, 50),
    Bucket(1, DAY, 1),
    Bucket(1, DAY, 4),
    Bucket(7, DAY, 2),
]


def _rig(redis: Redis, start_us: int) -> Rig:
    rig = Rig(redis)
    rig.time.start_us = rig.time.now_us = start_us
    return rig


async def _slot(rig: Rig, quota: Quota, costs: dict[str, int]) -> int:
    """The slot (µs after the start of time), however far away."""
    answer = await rig.request(quota, costs=costs, max_wait_s=1e9)
    assert isinstance(answer, Grant)
    return rig.time.now_us + answer.wait_us - rig.time.start_us


@pytest.mark.parametrize("start_us", [NOW_US, LAST_US - 1200 * DAY], ids=["today", "year 2252"])
@pytest.mark.parametrize("limit", RATES, ids=lambda limit: f"{limit.count} in {limit.period_us // S} s")
async def test_the_thousandth_token_of_a_bucket_comes_to_the_microsecond(
    redis: Redis, limit: Bucket, start_us: int
) -> None:
    """A saturated bucket grants token n at ceil((n - burst) x period / count) and its lag: no state of it is rounded.

    After `count` tokens all of it is the same again, a period later, so what holds for a few periods holds for ever.
    """
    rig, quota = _rig(redis, start_us), Quota("q", (limit,))
    calls = 1000
    for number in range(calls):
        slot_us = await _slot(rig, quota, {"requests": 1})
        # A bucket of one is full before each call, so it is refilled a lag later each time.
        lags = max(0, number) if limit.burst == 1 else int(number >= limit.burst)
        exact_us = -(-max(0, number + 1 - limit.burst) * limit.period_us // limit.count)
        if limit.burst == 1:
            exact_us = number * -(-limit.period_us // limit.count)
        assert slot_us == exact_us + lags * limit.lag_us
        rig.time.now_us = rig.time.start_us + slot_us


@pytest.mark.parametrize("start_us", [NOW_US, LAST_US - 1200 * DAY], ids=["today", "year 2252"])
async def test_windows_keep_their_span_to_the_microsecond_however_long(redis: Redis, start_us: int) -> None:
    rig = _rig(redis, start_us)
    limits = [Window(59, 60 * S), Window(1, DAY, "polls"), Window(3000, 10 * S, "images")]
    slots: dict[str, list[int]] = {limit.unit: [] for limit in limits}
    for limit in limits:
        rig.time.now_us = start_us
        cost = {limit.unit: 1 if limit.exact else 100}
        for _ in range(300):
            slots[limit.unit].append(await _slot(rig, Quota("q", (limit,)), cost))
            rig.time.now_us = start_us + slots[limit.unit][-1]
    assert slots["requests"][::59] == [turn * limits[0].span_us for turn in range(6)]
    assert slots["polls"] == [turn * limits[1].span_us for turn in range(300)]
    large = limits[2]
    assert all(
        later - first >= large.span_us
        for first, later in zip(slots["images"], slots["images"][30:], strict=False)
    )
    # Rounded up to a slice, of which there are 256 in a span.
    assert slots["images"][-1] <= 9 * large.span_us * (1 + 2 / 256)


async def test_leases_and_days_count_exactly_near_the_end_of_exact_times(redis: Redis) -> None:
    rig = _rig(redis, LAST_US - 400 * DAY)
    quota = Quota("q", (InFlight(1), CalendarDay(1, "UTC")))
    permit = await rig.permit(quota)
    rig.time.advance(15 * S - 1)
    [state] = await rig.limiter.snapshot([quota])
    assert state.in_flight == 1
    rig.time.advance(1)
    [state] = await rig.limiter.snapshot([quota])
    assert [unit.available for unit in state.units] == [1, 0]
    await rig.limiter.renew([permit])
    rig.time.advance(2 * DAY)
    [state] = await rig.limiter.snapshot([quota])
    assert [unit.available for unit in state.units] == [1, 1]


_LEVELS = """
-- @include tokens
-- KEYS none   ARGV full/period, period, count, lag, then pairs: time, cost
-- Returns each charge's level and since.
local period = tonumber(ARGV[2])
local read = {full = tonumber(ARGV[1]) * period, period = period, count = tonumber(ARGV[3]),
              lag = tonumber(ARGV[4]) * tonumber(ARGV[3])}
local level, since, out = read.full, tonumber(ARGV[5]), {}
for i = 5, #ARGV, 2 do
  level, since = tokens_after(read, level, since, tonumber(ARGV[i]), tonumber(ARGV[i + 1]) * period)
  out[#out + 1] = text(level)
  out[#out + 1] = text(since)
end
return out
"""


@settings(max_examples=200)
@given(data=st.data())
async def test_a_bucket_counts_in_whole_numbers_up_to_the_largest_burst(
    redis_server: Any, data: st.DataObject
) -> None:
    """Against Python's integers, which never round, for the slowest, fastest and largest buckets that can be had."""
    period_us = data.draw(st.one_of(st.integers(1, 366 * DAY), st.sampled_from([S, 60 * S, DAY, 366 * DAY])))
    count = data.draw(st.integers(1, 10**6))
    most = (LAST_US - 1) // period_us
    burst = data.draw(st.one_of(st.integers(1, most), st.just(most)))
    limit = Bucket(count, period_us, burst)
    at_us = data.draw(st.sampled_from([NOW_US, LAST_US - 1200 * DAY]))
    charges = []
    for gap, cost in data.draw(
        st.lists(
            st.tuples(st.one_of(st.integers(0, 10), st.integers(0, 5 * DAY)), st.integers(1, burst)),
            min_size=1,
            max_size=8,
        )
    ):
        at_us += gap
        charges += [at_us, cost]
    expected = []
    full, lag = burst * period_us, limit.lag_us * count
    level, since = full, charges[0]
    for when, cost in zip(charges[::2], charges[1::2], strict=True):
        there = min(full, level + max(0, when - since) * count)
        late = max(0, there - (full - lag))
        level, since = there - cost * period_us, max(since, when + -(-late // count))
        if level < -full:
            break  # far beyond what is ever granted
        expected += [level, since]
    async with Redis.from_url(redis_server.url) as client:
        script = LuaScript("levels", _expand(_LEVELS, [_INCLUDES], set()))
        args = [burst, period_us, count, limit.lag_us, *charges[: len(expected)]]
        reported = [int(each) for each in await script(client, [], args)]
    assert reported == expected


async def test_a_quota_of_ten_thousand_a_second_grants_just_that(redis: Redis) -> None:
    rig, quota = _rig(redis, NOW_US), Quota("q", (Bucket(10_000, S, 1000),))
    granted = 0
    while rig.time.now_us < NOW_US + 60 * S:
        rig.time.now_us = NOW_US + await _slot(rig, quota, {"requests": 997})
        granted += 997
    assert 600_000 <= granted <= 600_000 + 1000 + 997
