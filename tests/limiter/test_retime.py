"""A call that is late for its slot counts when it leaves, and takes no unit that another call has."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from limiter import Bucket, Grant, Later, Permit, Quota, Recalls, Window, parse_quota
from tests.limiter.conftest import Rig

S = 1_000_000
MS = 1_000
BELL_US = 20 * MS  # the delay that retime.lua allows
TEN = parse_quota("ten", {"requests": "10/s"})
BUCKET = parse_quota("bucket", {"requests": {"rate": "8/s", "burst": 4}})


class _Bell:
    """The doorbell as a process hears it; `deliver` lets a message arrive late."""

    def __init__(self, rig: Rig, pubsub: Any) -> None:
        self.recalls = Recalls(lambda: rig.time.now_us / 1e6)
        self.messages: list[str] = []
        self._rig = rig
        self._pubsub = pubsub
        self._on_the_way: list[tuple[int, str]] = []

    async def listen(self, *, delay_us: int = 0) -> None:
        await self._pubsub.ping()
        while (message := await self._pubsub.get_message(timeout=5))["type"] != "pong":
            if message["type"] == "message":
                self.messages.append(message["data"].decode())
                self._on_the_way.append((self._rig.time.now_us + delay_us, self.messages[-1]))
        self.deliver(self._rig.time.now_us)

    def deliver(self, until_us: int) -> None:
        """Let messages arrive that were due until then."""
        while self._on_the_way and self._on_the_way[0][0] <= until_us:
            self.recalls.note(self._on_the_way.pop(0)[1])


@asynccontextmanager
async def _bell(rig: Rig) -> AsyncIterator[_Bell]:
    async with rig.client.pubsub() as pubsub:
        await pubsub.subscribe(f"{rig.prefix}:bell")
        yield _Bell(rig, pubsub)


async def _permits(rig: Rig, quota: Quota, count: int) -> list[Permit]:
    return [await rig.permit(quota) for _ in range(count)]


async def test_a_late_call_recalls_those_with_later_slots_alone(redis: Redis) -> None:
    rig = Rig(redis)
    async with _bell(rig) as bell:
        late = await _permits(rig, TEN, 10)
        [ahead] = await _permits(rig, TEN, 1)
        requested_at = rig.time.now_us / 1e6
        rig.time.advance(300 * MS)
        assert all([await rig.limiter.retime(permit, [TEN]) for permit in late])
        await bell.listen()
        assert bell.recalls.covers(ahead, requested_at)
        assert not any(bell.recalls.covers(permit, requested_at) for permit in late)
        await rig.limiter.give_back(ahead)
        assert await rig.slot(TEN) == (300 + 1_010) * MS


async def test_a_late_call_with_room_ahead_recalls_nothing(redis: Redis) -> None:
    rig = Rig(redis)
    async with _bell(rig) as bell:
        [late, _] = await _permits(rig, TEN, 2)
        rig.time.advance(300 * MS)
        assert await rig.limiter.retime(late, [TEN])
        await bell.listen()
        assert bell.messages == []


async def test_a_late_call_recalls_under_the_full_quota_alone(redis: Redis) -> None:
    rig, wide = Rig(redis), parse_quota("wide", {"requests": "50/s"})
    async with _bell(rig) as bell:
        late = [await rig.permit(TEN, wide) for _ in range(11)][:10]
        rig.time.advance(300 * MS)
        assert all([await rig.limiter.retime(permit, [TEN, wide]) for permit in late])
        await bell.listen()
        assert [message.split()[1] for message in bell.messages] == ["ten"]


@pytest.mark.parametrize("quota", [TEN, BUCKET, parse_quota("large", {"requests": "5000/s"})])
async def test_a_late_call_does_not_take_the_units_of_calls_that_have_left(rig: Rig, quota: Quota) -> None:
    late = await rig.permit(quota)
    most = quota.limits[0].count
    rig.time.advance(1_100 * MS)
    answer = await rig.request(quota, costs={"requests": most if quota is not BUCKET else 4})
    assert isinstance(answer, Grant)
    assert answer.wait_us == 0
    before = await rig.limiter.snapshot([quota])
    assert not await rig.limiter.retime(late, [quota])
    assert await rig.limiter.snapshot([quota]) == before
    await rig.limiter.give_back(late)
    assert await rig.limiter.snapshot([quota]) == before


async def test_a_refused_late_call_gives_its_own_units_free(rig: Rig) -> None:
    quota = parse_quota("two", {"requests": "2/s", "images": "3/min"})
    late = await rig.permit(quota)
    rig.time.advance(1_100 * MS)
    for _ in range(2):
        assert await rig.slot(quota) == 1_100 * MS
    assert not await rig.limiter.retime(late, [quota])
    await rig.limiter.give_back(late)
    rig.time.advance(1_100 * MS)
    assert await rig.slot(quota) == 2_200 * MS, "the picture of the late call is free"


async def test_a_refused_late_call_frees_its_day_too(rig: Rig) -> None:
    quota = parse_quota("q", {"requests": ["2/s", {"rate": "5/d", "reset": "UTC"}]})
    late = await rig.permit(quota)
    rig.time.advance(1_100 * MS)
    for _ in range(2):
        await rig.slot(quota)
    assert not await rig.limiter.retime(late, [quota])
    await rig.limiter.give_back(late)
    rig.time.advance(2 * S)
    assert [await rig.slot(quota) for _ in range(3)][2] == 3_100 * MS + 1_010 * MS, "three of five are left"
    assert isinstance(await rig.request(quota), Later)


@pytest.mark.parametrize(
    "requests", ["2/s", "5000/s", {"rate": "8/s", "burst": 2}, {"rate": "2/s", "window": "fixed"}]
)
async def test_a_refusal_of_a_late_call_stands_when_its_reply_is_lost(rig: Rig, requests: object) -> None:
    quota = parse_quota("q", {"requests": [requests, {"rate": "9000/d", "reset": "UTC"}]})
    late = await rig.permit(quota)
    rig.time.advance(1_100 * MS)
    most = 5000 if requests == "5000/s" else 2
    other = await rig.request(quota, costs={"requests": most})
    assert isinstance(other, Grant)
    assert not await rig.limiter.retime(late, [quota])
    await rig.limiter.give_back(other.permit)
    before = await rig.limiter.snapshot([quota])
    assert not await rig.limiter.retime(late, [quota]), "there is room by now, but its day is not charged"
    assert await rig.limiter.snapshot([quota]) == before
    await rig.limiter.give_back(late)
    assert await rig.limiter.snapshot([quota]) == before


async def test_a_refused_late_call_may_be_requested_again_under_its_name(rig: Rig) -> None:
    quota = parse_quota("q", {"requests": "2/s"})
    late = await rig.permit(quota, request_id="r")
    rig.time.advance(1_100 * MS)
    for _ in range(2):
        await rig.slot(quota)
    assert not await rig.limiter.retime(late, [quota])
    again = await rig.permit(quota, request_id="r")
    assert (again.grant_id == late.grant_id, again.slot_us - rig.time.now_us) == (False, 1_010 * MS)


async def test_a_call_whose_slot_is_to_come_stays_as_it_is(rig: Rig) -> None:
    permits = await _permits(rig, TEN, 11)
    before = await rig.dump()
    assert await rig.limiter.retime(permits[-1], [TEN])
    assert await rig.dump() == before


async def test_a_call_that_was_sent_counts_even_without_room(rig: Rig) -> None:
    late = await rig.permit(TEN)
    rig.time.advance(1_100 * MS)
    for _ in range(10):
        assert await rig.slot(TEN) == 1_100 * MS
    assert await rig.limiter.retime(late, [TEN], sent=True)
    assert await rig.client.zcard(f"{rig.prefix}:limiter:ten:log:requests") == 11


async def test_a_late_call_leaves_at_no_time_of_a_cooldown(rig: Rig) -> None:
    late = await rig.permit(TEN)
    rig.time.advance(300 * MS)
    await rig.limiter.penalise(TEN, reason="429", retry_after_s=5)
    assert not await rig.limiter.retime(late, [TEN])


async def test_the_call_that_goes_alone_after_a_pause_may_be_late(rig: Rig) -> None:
    await rig.limiter.penalise(TEN, reason="429", retry_after_s=5)
    rig.time.advance(6 * S)
    alone, other = await _permits(rig, TEN, 2)
    assert other.slot_us > alone.slot_us
    rig.time.advance(100 * MS)
    assert await rig.limiter.retime(alone, [TEN])


async def test_a_late_call_moves_in_the_slices_beside_a_log_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter.quota.limits.EXACT_MOST", 30)
    large, small = parse_quota("q", {"requests": "60/min"}), parse_quota("q", {"requests": "20/min"})
    await rig.slot(large)
    late = await rig.permit(small)
    rig.time.advance(10 * S)
    assert await rig.limiter.retime(late, [small])
    fields: Any = await rig.client.hgetall(f"{rig.prefix}:limiter:q:slices:requests")
    assert [units for slot, units in fields.items() if slot.isdigit()] == [b"1", b"1"]


async def test_the_record_of_a_late_call_still_frees_its_day(rig: Rig) -> None:
    quota = parse_quota("q", {"requests": ["5000/min", {"rate": "5/d", "reset": "UTC"}]})
    late = await rig.permit(quota, request_id="r")
    rig.time.advance(S)
    assert await rig.limiter.retime(late, [quota])
    repeated = await rig.request(quota, request_id="r")
    assert isinstance(repeated, Grant)
    assert (repeated.permit.grant_id, repeated.permit.slot_us) == (late.grant_id, rig.time.now_us)
    await rig.limiter.give_back(late)
    [state] = await rig.limiter.snapshot([quota])
    assert state.units[0].available == 5


@dataclass
class _Fleet:
    """Replicas that wait for slots and now and then stand still; `arrivals` are the calls at the provider."""

    rig: Rig
    bell: _Bell
    quota: Quota
    waiting: list[tuple[int, Permit, float]] = field(
        default_factory=list
    )  # when it wakes, its permit, its request
    arrivals: list[int] = field(default_factory=list)
    late: int = 0
    refused: int = 0
    recalled: int = 0

    async def request(self, stall_us: int) -> None:
        answer = await self.rig.request(self.quota, costs={"requests": 1}, max_wait_s=8)
        if isinstance(answer, Later):
            return
        now_us = self.rig.time.now_us
        self.waiting.append((answer.permit.slot_us + stall_us, answer.permit, now_us / 1e6))

    async def until(self, at_us: int) -> None:
        """Let time pass; who wakes sends, unless its permit was recalled or others have its units."""
        while True:
            first = min(self.waiting, key=lambda one: one[0], default=None)
            self.bell.deliver(at_us if first is None else min(at_us, first[0]))
            if await self._give_back_recalled():
                continue
            if first is None or first[0] > at_us:
                break
            self.waiting.remove(first)
            wakes_us, permit, _ = first
            self.rig.time.now_us = max(self.rig.time.now_us, wakes_us)
            if self.rig.time.now_us - permit.slot_us > self.quota.tolerance_s * 1e6:
                self.late += 1
                if not await self.rig.limiter.retime(permit, [self.quota]):
                    self.refused += 1
                    await self.rig.limiter.give_back(permit)
                    continue
                await self.bell.listen(delay_us=BELL_US)
            self.arrivals.append(self.rig.time.now_us)
        self.rig.time.now_us = at_us

    async def _give_back_recalled(self) -> bool:
        recalled = [one for one in self.waiting if self.bell.recalls.covers(one[1], one[2])]
        for one in recalled:
            self.waiting.remove(one)
            self.recalled += 1
            await self.rig.limiter.give_back(one[1])
        return bool(recalled)


def _window_full(arrivals: Sequence[int], limit: Window) -> bool:
    """Whether a period of the provider has more arrivals than it allows."""
    pairs = zip(arrivals, arrivals[limit.count :], strict=False)
    return any(later - earlier < limit.period_us for earlier, later in pairs)


def _bucket_empty(arrivals: Sequence[int], limit: Bucket) -> bool:
    """Whether the provider's bucket has no token for one of the arrivals."""
    full = limit.burst * limit.period_us
    credit, at_us = full, arrivals[0] if arrivals else 0
    for arrival_us in arrivals:
        credit = min(full, credit + (arrival_us - at_us) * limit.count)
        # Our slots are whole µs, so a credit of less than one µs may be missing.
        if credit < limit.period_us - limit.count:
            return True
        credit, at_us = credit - limit.period_us, arrival_us
    return False


_STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 40 * MS, 130 * MS, 700 * MS]),
        st.sampled_from([0, 0, 0, 4 * MS, 60 * MS, 300 * MS, 1_500 * MS, 4_000 * MS]),
    ),
    min_size=10,
    max_size=80,
)


async def _run(redis: Redis, quota: Quota, steps: list[tuple[int, int]]) -> _Fleet:
    rig = Rig(redis)
    async with _bell(rig) as bell:
        fleet = _Fleet(rig, bell, quota)
        for pass_us, stall_us in steps:
            await fleet.until(rig.time.now_us + pass_us)
            await fleet.request(stall_us)
        await fleet.until(rig.time.now_us + 30 * S)
        return fleet


_LIMITS = [Window(3, S), Window(10, S), Window(4, 7 * S), Bucket(8, S, 4), Bucket(20, S, 1)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(limit=st.sampled_from(_LIMITS), steps=_STEPS)
async def test_no_stall_makes_a_fleet_exceed_a_limit(
    redis: Redis, limit: Window | Bucket, steps: list[tuple[int, int]]
) -> None:
    fleet = await _run(redis, Quota("q", (limit,)), steps)
    if isinstance(limit, Window):
        assert not _window_full(fleet.arrivals, limit)
    else:
        assert not _bucket_empty(fleet.arrivals, limit)


@pytest.mark.parametrize("limit", _LIMITS)
async def test_stalls_recall_and_refuse_calls(redis: Redis, limit: Window | Bucket) -> None:
    """Without this the claim above could hold because no call is ever late for others."""
    late, refused, recalled = 0, 0, 0
    draw = random.Random(1)
    for stalls in ([0, 0, 20 * MS], [0, 0, 300 * MS], [0, 0, 0, 7_200 * MS]):
        steps = [
            (draw.choice([0, 1, 40 * MS, limit.period_us // 3]), draw.choice(stalls)) for _ in range(100)
        ]
        fleet = await _run(redis, Quota("q", (limit,)), steps)
        late, refused, recalled = late + fleet.late, refused + fleet.refused, recalled + fleet.recalled
    assert min(late, refused, recalled) > 0, (late, refused, recalled)
