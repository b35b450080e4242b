"""A refusal that only the uneven way to the provider explains widens the guard for an hour."""

from __future__ import annotations

import pytest

from limiter import Quota, parse_quota
from limiter.quota.limits import Bucket, CalendarDay, FixedWindow, Window
from tests.limiter.conftest import Rig

S = 1_000_000
MS = 1_000
TEN = Quota("q", (Window(10, S),))


async def _apart_us(rig: Rig, quota: Quota) -> int:
    """The time from the first slot of a full window to the first one after it."""
    rig.time.advance(100 * S)
    first, *_, last = [await rig.slot(quota) for _ in range(11)]
    return last - first


async def _full(rig: Rig, quota: Quota, number: int) -> int:
    """The factor after the refusal of the last call of a full window."""
    rig.time.advance(100 * S)
    permits = [await rig.permit(quota, request_id=f"{number}.{k}") for k in range(11)]
    return await rig.limiter.widen(quota, permits[-1])


async def test_each_refusal_of_a_full_window_doubles_the_guard_up_to_a_tenth(rig: Rig) -> None:
    seen = [await _apart_us(rig, TEN)]
    for number, factor in enumerate([2, 4, 8, 8]):
        assert await _full(rig, TEN, number) == factor
        seen.append(await _apart_us(rig, TEN))
    assert [apart_us - S for apart_us in seen] == [10 * MS, 20 * MS, 40 * MS, 80 * MS, 80 * MS]
    short = Quota("short", (Window(10, S // 10),))
    for number in range(3):
        await _full(rig, short, number)
    assert await _apart_us(rig, short) == 110 * MS, "a tenth of the period at most"
    ttl_ms = await rig.client.pttl(f"{rig.prefix}:limiter:q:guard")
    assert 0 < ttl_ms <= 3_600_000


async def test_a_refusal_in_an_emptier_window_has_another_reason(rig: Rig) -> None:
    permits = [await rig.permit(TEN) for _ in range(10)]
    assert await rig.limiter.widen(TEN, permits[-1]) == 0
    assert await _apart_us(rig, TEN) == S + 10 * MS


async def test_a_late_call_is_judged_by_the_time_when_it_left(rig: Rig) -> None:
    permits = [await rig.permit(TEN) for _ in range(11)]
    rig.time.advance(3 * S)
    assert await rig.limiter.retime(permits[-1], [TEN])
    assert await rig.limiter.widen(TEN, permits[-1]) == 0


@pytest.mark.parametrize(
    ("bucket", "lags_us"),
    [
        (Bucket(10, S, 5), [5 * MS, 10 * MS, 20 * MS, 40 * MS]),
        (Bucket(10, S, 1), [1 * MS, 2 * MS, 4 * MS, 8 * MS]),
    ],
)
async def test_a_bucket_refills_that_much_later(rig: Rig, bucket: Bucket, lags_us: list[int]) -> None:
    quota = Quota("bucket", (bucket,))
    seen = []
    for _ in lags_us:
        rig.time.advance(100 * S)
        first, *_, last = [await rig.slot(quota) for _ in range(bucket.burst + 1)]
        seen.append(last - first - S // 10)
        assert await rig.limiter.widen(quota, await rig.permit(quota)) > 0
    assert seen == lags_us


@pytest.mark.parametrize("limit", [Window(5_000, S), FixedWindow(9, S), CalendarDay(9, "UTC")])
async def test_other_kinds_keep_their_guard(rig: Rig, limit: Window | FixedWindow | CalendarDay) -> None:
    quota = Quota("q", (limit,))
    assert await rig.limiter.widen(quota, await rig.permit(quota)) == 0


async def test_the_guard_of_a_quota_that_learns_widens_too(rig: Rig) -> None:
    learns = parse_quota("learns", {"requests": "10/s", "adaptive": True})
    assert await _full(rig, learns, 0) == 2
    rig.time.advance(100 * S)
    slots = [await rig.slot(learns) for _ in range(11)]
    assert slots[10] - slots[0] == S + 20 * MS
