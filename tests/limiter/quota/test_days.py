"""Calendar days: all units come back at midnight of the provider's zone, and what is given back goes to its day."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from limiter import Bound, Grant, Later, Limiter, Quota, parse_quota
from tests.limiter.conftest import Rig

S = 1_000_000
DAY = 86_400 * S
MARGIN = 2 * S


def _daily(zone: str, count: int = 2) -> Quota:
    return parse_quota("daily", {"requests": {"rate": f"{count}/day", "reset": zone}})


def _midnight_us(year: int, month: int, day: int, zone: str) -> int:
    return round(datetime(year, month, day, tzinfo=ZoneInfo(zone)).timestamp()) * S


def _at(rig: Rig, us: int) -> None:
    rig.time.now_us = rig.time.start_us = us


@pytest.mark.parametrize(
    ("zone", "before", "length"),
    [
        ("Asia/Shanghai", (2026, 11, 22), 24),
        ("America/Los_Angeles", (2026, 3, 8), 23),
        ("America/Los_Angeles", (2026, 11, 1), 25),
        ("America/Santiago", (2026, 9, 6), 23),
        ("UTC", (2027, 12, 31), 24),
    ],
)
async def test_a_day_lasts_from_midnight_to_midnight_even_if_clocks_change(
    rig: Rig, zone: str, before: tuple[int, int, int], length: int
) -> None:
    starts_us = _midnight_us(*before, zone)
    _at(rig, starts_us + S * 3600)
    quota = _daily(zone)
    next_us = (length - 1) * 3600 * S + MARGIN
    assert [await rig.slot(quota) for _ in range(2)] == [0, 0]
    answer = await rig.request(quota, max_wait_s=1e6)
    assert isinstance(answer, Grant)
    assert answer.wait_us == next_us
    later = await rig.request(quota, max_wait_s=0)
    assert later == Later(next_us, Bound("daily", "requests"))


async def test_a_full_day_parks_the_call_and_charges_nothing(rig: Rig) -> None:
    _at(rig, _midnight_us(2026, 11, 22, "UTC") + 12 * 3600 * S)
    quota = _daily("UTC")
    for _ in range(2):
        await rig.slot(quota)
    before = await rig.dump()
    assert isinstance(await rig.request(quota), Later)
    assert await rig.dump() == before


@pytest.mark.parametrize("off_us", [-MARGIN + 1, 0, MARGIN - 1])
async def test_nothing_is_sent_so_near_to_midnight_that_its_day_is_unknown(rig: Rig, off_us: int) -> None:
    midnight_us = _midnight_us(2026, 11, 23, "Asia/Shanghai")
    _at(rig, midnight_us + off_us)
    assert rig.time.now_us + await rig.slot(_daily("Asia/Shanghai")) == midnight_us + MARGIN


async def test_a_unit_given_back_after_midnight_goes_to_its_own_day(rig: Rig) -> None:
    midnight_us = _midnight_us(2026, 11, 23, "Asia/Shanghai")
    _at(rig, midnight_us - MARGIN)
    quota = _daily("Asia/Shanghai")
    early = await rig.permit(quota)
    rig.time.advance(2 * MARGIN)
    await rig.permit(quota)
    await rig.limiter.give_back(early)
    await rig.limiter.give_back(early)
    [state] = await rig.limiter.snapshot([quota])
    assert state.units[0].available == 1
    await rig.permit(quota)
    assert isinstance(await rig.request(quota, max_wait_s=0), Later)


async def test_a_given_back_unit_of_today_can_be_granted_again(rig: Rig) -> None:
    quota = _daily("UTC", 1)
    await rig.limiter.give_back(await rig.permit(quota))
    await rig.permit(quota)
    assert isinstance(await rig.request(quota, max_wait_s=0), Later)


async def test_days_far_ahead_are_not_planned_but_tried_later(rig: Rig) -> None:
    quota = _daily("UTC", 1)
    answers = [await rig.request(quota, max_wait_s=1e8) for _ in range(8)]
    kinds = [type(answer) for answer in answers]
    assert kinds[:4] == [Grant] * 4
    assert kinds[-1] is Later


async def test_the_servers_clock_and_not_the_process_clock_names_the_day(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter.server.time.time_ns", lambda: 1_000 * DAY)
    own = Limiter(rig.client, rig.prefix)
    quota = _daily("UTC", 1)
    granted = await own.acquire([quota], holder="h", request_id="r", max_wait_s=10)
    assert isinstance(granted, Grant)
    seconds, _ = await rig.client.time()
    today = datetime.fromtimestamp(seconds, ZoneInfo("UTC")).replace(hour=0, minute=0, second=0)
    days = {today, today + timedelta(days=1)}  # the test may run at midnight
    [field] = await rig.client.hkeys(f"{rig.prefix}:limiter:daily:day:requests")
    assert int(field) in {round(day.timestamp()) * S for day in days}


async def test_a_given_back_grant_takes_nothing_of_a_later_one_with_its_request(rig: Rig) -> None:
    quota = _daily("UTC")
    old = await rig.permit(quota, request_id="r")
    await rig.limiter.release(old)
    await rig.permit(quota, request_id="r")
    await rig.limiter.give_back(old)
    assert isinstance(await rig.request(quota, max_wait_s=0), Later)
