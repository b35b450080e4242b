"""A quota learns its real rate through the scripts, from a provider that reveals only refusals."""

from __future__ import annotations

import random
from collections import deque

import pytest

from limiter import Grant, HeaderReading, Permit, Quota, parse_quota
from tests.limiter.conftest import Rig, on_valkey

S = 1_000_000
API = parse_quota("api", {"requests": "40/4s", "adaptive": True})
FIXED = parse_quota("api", {"requests": "40/4s"})


class _Provider:
    """A strict window whose count changes; a refusal says when there is room again."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._arrivals: deque[int] = deque()

    def refuses(self, at_us: int) -> float | None:
        while self._arrivals and self._arrivals[0] <= at_us - 4 * S:
            self._arrivals.popleft()
        if len(self._arrivals) < self.count:
            self._arrivals.append(at_us)
            return None
        return (self._arrivals[-self.count] + 4 * S - at_us) / S


class _Run:
    """One saturated sender; it gives recalled grants back, as a dispatcher does."""

    def __init__(self, rig: Rig, provider: _Provider, *, names_time: bool = True, seed: int = 0) -> None:
        self.rig = rig
        self.provider = provider
        self.names_time = names_time
        self.draw = random.Random(seed)
        self.accepted: list[int] = []
        self.refused: list[int] = []
        self.scales: list[tuple[float, float]] = []

    async def until(self, seconds: float) -> None:
        rig = self.rig
        end_us = rig.time.start_us + round(seconds * S)
        while rig.time.now_us < end_us:
            answer = await rig.request(API, max_wait_s=1)
            if not isinstance(answer, Grant):
                rig.time.advance(answer.retry_us)
                continue
            self.scales += [(scale.before, scale.now) for scale in answer.scales]
            rig.time.advance(answer.wait_us)
            await self._send(answer.permit)

    async def _send(self, permit: Permit) -> None:
        rig = self.rig
        retry_after_s = self.provider.refuses(rig.time.now_us + self.draw.randrange(5_000))
        rig.time.advance(2_000)
        at_s = (rig.time.now_us - rig.time.start_us) / S
        if retry_after_s is None:
            self.accepted.append(round(at_s))
            return
        self.refused.append(round(at_s))
        penalty = await rig.limiter.penalise(
            API, retry_after_s=retry_after_s if self.names_time else None, reason="429", permit=permit
        )
        if penalty.scale:
            self.scales.append((penalty.scale.before, penalty.scale.now))


@on_valkey
@pytest.mark.parametrize("names_time", [True, False], ids=["names the time", "names no time"])
async def test_a_quota_that_was_halved_is_found_with_few_refusals_and_then_used(
    rig: Rig, names_time: bool
) -> None:
    provider = _Provider(40)
    run = _Run(rig, provider, names_time=names_time)
    await run.until(20)
    assert run.refused == []
    provider.count = 20
    await run.until(40)
    assert 1 <= len(run.refused) <= 10
    used = len(run.accepted)
    await run.until(60)
    assert len(run.accepted) - used >= 0.9 * 20 * 5
    [state] = await rig.limiter.snapshot([API])
    assert 0.4 <= state.scale <= 0.6
    assert run.scales[0][0] == 1.0


@on_valkey
async def test_a_quota_that_was_restored_is_found_again(rig: Rig) -> None:
    provider = _Provider(20)
    run = _Run(rig, provider)
    await run.until(30)
    provider.count = 40
    await run.until(230)
    [state] = await rig.limiter.snapshot([API])
    assert state.scale == 1.0


async def test_a_learned_rate_holds_for_all_and_ends_with_the_configuration(rig: Rig) -> None:
    await rig.limiter.penalise(API, retry_after_s=0, reason="429", permit=await rig.permit(API))
    [state] = await rig.limiter.snapshot([API])
    assert state.scale < 1
    changed = parse_quota("api", {"requests": "30/4s", "adaptive": True})
    for quota in (changed, FIXED):
        [state] = await rig.limiter.snapshot([quota])
        assert state.scale == 1


async def test_a_burst_of_refusals_is_one_cut_of_the_rate(rig: Rig) -> None:
    permits = [await rig.permit(API) for _ in range(10)]
    answers = [
        await rig.limiter.penalise(API, retry_after_s=1, reason="429", permit=permit) for permit in permits
    ]
    assert [answer.scale is not None for answer in answers] == [True] + [False] * 9


async def test_concurrency_teaches_nothing_about_the_rate(rig: Rig) -> None:
    answer = await rig.limiter.penalise(API, reason="busy", kind="concurrency", permit=await rig.permit(API))
    assert answer.scale is None


@pytest.mark.parametrize(
    ("spec", "calls", "least_s"),
    [
        ({"requests": {"rate": "10/s", "burst": 3}}, 8, 0.6),
        ({"requests": ["10/s", "120/min"], "images": "200/min"}, 8, 3),
        ({"requests": "30000/min"}, 30_000, 60),
    ],
    ids=["bucket", "several windows", "slices"],
)
async def test_every_kind_of_rate_slows_down_after_a_cut(
    rig: Rig, spec: dict[str, object], calls: int, least_s: float
) -> None:
    quota = parse_quota("api", {**spec, "adaptive": True})
    free = [await _time_of(rig, quota, calls), 0.0]
    for _ in range(3):
        rig.time.advance(S)
        await rig.limiter.penalise(quota, retry_after_s=0, reason="429", permit=await rig.permit(quota))
    [state] = await rig.limiter.snapshot([quota])
    assert state.scale < 0.8
    rig.time.advance(120 * S)
    free[1] = await _time_of(rig, quota, calls)
    assert free[0] < least_s < free[1]


async def _time_of(rig: Rig, quota: Quota, calls: int) -> float:
    """In how many seconds so many calls can be sent from now on."""
    cost = max(1, calls // 30)
    waits = []
    for _ in range(calls // cost):
        answer = await rig.request(quota, costs={"requests": cost, "images": 1})
        assert isinstance(answer, Grant)
        waits.append(answer.wait_us)
    return max(waits) / S


# --- headers


def _left(remaining: int, reset_s: float | None = None) -> list[HeaderReading]:
    return [HeaderReading(limit=40, remaining=remaining, reset_s=reset_s)]


async def test_headers_tighten_until_the_reset_and_never_loosen(rig: Rig) -> None:
    permit = await rig.permit(API)
    assert await rig.limiter.observe(API, permit, _left(39)) == 0  # as our books have it
    assert await rig.limiter.observe(API, permit, _left(4, reset_s=3)) == 1
    [state] = await rig.limiter.snapshot([API])
    assert state.units[0].available == 4
    slots = [await rig.slot(API) for _ in range(6)]
    assert slots[3] < 3 * S <= slots[4]
    rig.time.advance(4 * S + 40_000)
    [state] = await rig.limiter.snapshot([API])
    assert state.units[0].available == 40 - 6  # our own use alone counts again


async def test_an_older_answer_changes_nothing_and_a_newer_one_replaces(rig: Rig) -> None:
    first = await rig.permit(API)
    rig.time.advance(S)
    second = await rig.permit(API)
    await rig.limiter.observe(API, second, _left(10))
    await rig.limiter.observe(API, first, _left(1))
    [state] = await rig.limiter.snapshot([API])
    assert state.units[0].available == 10
    rig.time.advance(1000)
    await rig.limiter.observe(API, await rig.permit(API), _left(20))
    [state] = await rig.limiter.snapshot([API])
    assert state.units[0].available == 20


async def test_calls_on_their_way_are_not_counted_twice(rig: Rig) -> None:
    permit = await rig.permit(API)
    rig.time.advance(1)
    for _ in range(5):
        await rig.permit(API)  # sent after it, so not in its answer
        rig.time.advance(200_000)
    await rig.limiter.observe(API, permit, _left(30))
    [state] = await rig.limiter.snapshot([API])
    assert state.units[0].available == 25


async def test_the_answer_of_a_late_call_is_about_the_time_when_it_left(rig: Rig) -> None:
    late = await rig.permit(API)
    for _ in range(5):
        await rig.permit(API)
        rig.time.advance(100_000)
    assert await rig.limiter.retime(late, [API])
    await rig.limiter.observe(API, late, _left(34))
    [state] = await rig.limiter.snapshot([API])
    assert state.units[0].available == 34, "the five calls before it are in its answer, and so is itself"


async def test_use_of_a_daily_allowance_by_others_counts_until_midnight(rig: Rig) -> None:
    quota = parse_quota(
        "day", {"requests": {"rate": "100/day", "reset": "UTC"}, "images": "9/s", "adaptive": True}
    )
    permit = await rig.permit(quota)
    await rig.limiter.observe(quota, permit, [HeaderReading(limit=100, remaining=1, window_s=86_400)])
    assert isinstance(await rig.request(quota, max_wait_s=60), Grant)
    assert not isinstance(await rig.request(quota, max_wait_s=60), Grant)
    rig.time.now_us += 86_400 * S
    assert isinstance(await rig.request(quota, max_wait_s=60), Grant)


async def test_headers_tighten_a_large_window_too(rig: Rig) -> None:
    quota = parse_quota("large", {"requests": "30000/min", "adaptive": True})
    permit = await rig.permit(quota)
    await rig.limiter.observe(quota, permit, [HeaderReading(remaining=50)])
    [state] = await rig.limiter.snapshot([quota])
    assert state.units[0].available in (49, 50)  # its own slice may be newer than the answer


# --- how unevenly calls arrive


async def test_the_largest_spread_of_a_fleet_widens_long_windows_by_a_hundredth(rig: Rig) -> None:
    short, long = parse_quota("short", {"requests": "1/5s"}), parse_quota("long", {"requests": "1/min"})
    assert await rig.limiter.report_spread(250_000) == 250_000
    assert await rig.limiter.report_spread(20_000) == 250_000
    assert [await rig.slot(short) for _ in range(2)] == [0, 5 * S + 50_000]
    assert [await rig.slot(long) for _ in range(2)] == [0, 60 * S + 250_000]
    await rig.limiter.report_spread(9 * S)
    assert await rig.slot(long) == 120 * S + 850_000


async def test_a_guard_that_is_measured_anew_uses_up_nothing_of_a_large_window(rig: Rig) -> None:
    """The figure changes with every report; slices that were cut anew for each counted every use twice."""
    quota = parse_quota("large", {"requests": "25600/min"})
    for report in range(8):
        await rig.limiter.report_spread(200_000 + 1_000 * report)
        for _ in range(5):
            await rig.slot(quota, costs={"requests": 500})
        rig.time.advance(15 * S)
        [state] = await rig.limiter.snapshot([quota])
        assert state.units[0].available >= 25_600 - 5 * 2_500


# --- what must not be learned from too little


async def test_an_overloaded_provider_is_left_alone_longer_each_time(
    rig: Rig,
) -> None:
    pauses = []
    for _ in range(4):
        penalty = await rig.limiter.penalise(
            API, reason="busy", kind="overload", permit=await rig.permit(API)
        )
        pauses.append(penalty.pause_s)
        rig.time.advance(round(penalty.pause_s * S) + S)
    assert pauses == [1, 2, 4, 8]
    [state] = await rig.limiter.snapshot([API])
    assert state.scale == 1


async def test_a_day_is_not_spread_evenly_because_of_one_refusal(rig: Rig) -> None:
    quota = parse_quota("api", {"requests": ["20/min", "1000/d"], "adaptive": True})
    await rig.limiter.penalise(quota, retry_after_s=0, reason="429", permit=await rig.permit(quota))
    rig.time.advance(120 * S)
    assert await _time_of(rig, quota, 10) < 60


@on_valkey
@pytest.mark.parametrize(
    ("spec", "cost"),
    [
        ({"requests": {"rate": "3/s", "window": "fixed"}}, 1),
        ({"requests": "10/min"}, 4),
        ({"requests": "3/10s"}, 1),
    ],
    ids=["three by the clock", "ten in fours", "three"],
)
async def test_a_level_that_leaves_no_room_for_a_whole_call_rises_again(
    rig: Rig, spec: dict[str, object], cost: int
) -> None:
    quota = parse_quota("api", {**spec, "adaptive": True})
    await rig.limiter.penalise(quota, retry_after_s=0, reason="429", permit=await rig.permit(quota))
    [state] = await rig.limiter.snapshot([quota])
    assert state.scale < 1
    for _ in range(600):
        answer = await rig.request(quota, costs={"requests": cost})
        assert isinstance(answer, Grant)
        rig.time.advance(answer.wait_us)
    [state] = await rig.limiter.snapshot([quota])
    assert state.scale == 1


async def test_a_header_without_a_period_is_about_its_count_or_the_shortest_limit(rig: Rig) -> None:
    quota = parse_quota("api", {"requests": ["20/min", "1000/d"], "adaptive": True})
    for limit in (None, 20):
        permit = await rig.permit(quota)
        await rig.limiter.observe(quota, permit, [HeaderReading(limit=limit, remaining=0)])
        assert isinstance(await rig.request(quota, max_wait_s=61), Grant), (
            "believed for a minute, not for a day"
        )
        rig.time.advance(120 * S)
    await rig.limiter.observe(quota, await rig.permit(quota), [HeaderReading(limit=1000, remaining=0)])
    [state] = await rig.limiter.snapshot([quota])
    assert state.units[0].available == 0


async def test_a_daily_header_without_a_reset_counts_for_an_hour(
    rig: Rig,
) -> None:
    quota = parse_quota("api", {"requests": "500/d", "adaptive": True})
    readings = [HeaderReading(limit=500, remaining=0, window_s=86_400)]
    await rig.limiter.observe(quota, await rig.permit(quota), readings)
    slot = await rig.slot(quota)
    assert 3599 * S <= slot <= 3601 * S
