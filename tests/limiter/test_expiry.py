"""Keys expire by themselves, and never while they still matter. These tests cover each kind of key."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import limiter.keys
import limiter.quota.limits
from limiter import (
    Bucket,
    CalendarDay,
    FixedWindow,
    Grant,
    HeaderReading,
    InFlight,
    Later,
    Limiter,
    Permit,
    Quota,
    Window,
    parse_quota,
)
from tests.limiter.conftest import Rig

S = 1_000_000
MIN = 60 * S
DAY = 1440 * MIN
# Every TTL has a minute on top, for clocks that do not agree. Here nearly all of it is taken away.
MARGIN_US, SPARED_US = MIN, 10 * S
# These mean something by their TTL: an expired lease can be renewed for a minute. So it is kept to the µs.
EXACT = ("permit", "spread", "leases")


@pytest.fixture(autouse=True)
def small_exact_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter.quota.limits, "EXACT_MOST", 3)


class _Mortal(Rig):
    """A rig whose keys die in virtual time, as early as their TTL allows; with `immortal` they outlive it."""

    def __init__(self, client: Redis, *, immortal: bool) -> None:
        super().__init__(client)
        self.immortal = immortal
        self.dies_us: dict[bytes, int] = {}
        self.limiter._grant_ids = (f"{number:x}" for number in range(10_000))

    async def before(self) -> None:
        """Set the server's TTLs to those of virtual time, and delete expired keys."""
        for key, dies_us in list(self.dies_us.items()):
            rest_us = dies_us - self.time.now_us
            exact = self.kind(key) in EXACT
            if rest_us <= 0 if exact else not self.immortal and rest_us <= MARGIN_US - SPARED_US:
                await self.client.delete(key)
                del self.dies_us[key]
            else:
                await self.client.pexpire(key, max(1, rest_us // 1000) if rest_us > 0 else MIN)

    async def after(self) -> None:
        keys: Any = await self.client.keys(f"{self.prefix}*")
        self.dies_us = {}
        for key in keys:
            ttl_ms: int = await self.client.pttl(key)
            if ttl_ms >= 0:
                self.dies_us[key] = self.time.now_us + ttl_ms * 1000

    def kind(self, key: bytes) -> str:
        """`log`, `cooldown`, ...: what kind of key it is."""
        return next(part for part in key.decode()[len(self.prefix) :].split(":") if part in KINDS)


KINDS = re.findall(r"^    PREFIX:limiter:(?:QUOTA:)?(\w+)", limiter.keys.__doc__ or "", re.MULTILINE)

_A = Quota(
    "a", (Window(2, MIN), Window(5, 7 * MIN, "images"), Bucket(1, 30 * MIN, 2), InFlight(3)), adaptive=True
)
_B = Quota("b", (Window(3, 31 * MIN), CalendarDay(20, "UTC", "images"), Bucket(7, 11 * MIN, 9, "images")))
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["request"] * 6
            + ["release", "give_back", "renew", "submitted", "retime", "penalise", "places", "observe"]
        ),
        st.sampled_from([0, S, 16 * S, 45 * S, 61 * S, 80 * S, 5 * MIN, 8 * MIN, 31 * MIN]),
        st.sampled_from(["a", "b", "ab"]),
        st.integers(0, 3),
        st.sampled_from([0.0, 90.0, 2400.0]),
        st.integers(0, 100),
    ),
    min_size=4,
    max_size=25,
)


# A report of a call whose slot was still ahead was forgotten with its key, before its entry said so.
_REPORTED_EARLY = [
    *(("request", 0, "a", 3, most_s, 0) for most_s in (0.0, 2400.0)),
    ("request", 0, "a", 0, 0.0, 0),
    ("places", 0, "a", 0, 0.0, 1),
    ("request", 16 * S, "a", 0, 0.0, 0),
    ("request", 61 * S, "a", 0, 0.0, 0),
    ("places", 61 * S, "a", 0, 0.0, 1),
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example(steps=_REPORTED_EARLY)
@given(steps=_STEPS)
async def test_no_answer_depends_on_a_key_that_may_have_died(redis: Redis, steps: list[Any]) -> None:
    rigs = [_Mortal(redis, immortal=False), _Mortal(redis, immortal=True)]
    permits: list[list[Permit]] = [[], []]
    for number, (action, pass_us, names, images, max_wait_s, pick) in enumerate(steps):
        replies = []
        for rig, held in zip(rigs, permits, strict=True):
            rig.time.advance(pass_us)
            await rig.before()
            replies.append(await _done(rig, held, action, names, images, max_wait_s, pick, number))
            await rig.after()
        assert replies[0] == replies[1]


async def _done(
    rig: Rig,
    held: list[Permit],
    action: str,
    names: str,
    images: int,
    max_wait_s: float,
    pick: int,
    number: int,
) -> object:
    """Take one step; returns the promised part of its reply."""
    quotas = [quota for quota in (_A, _B) if quota.name in names]
    if action == "request":
        costs = {"requests": pick % 2, "images": images}
        answer = await rig.request(*quotas, costs=costs, max_wait_s=max_wait_s, request_id=f"r{number}")
        if isinstance(answer, Later):
            return answer
        held.append(answer.permit)
        return answer.wait_us, answer.scales
    permit = held[pick % len(held)] if held else None
    if permit and action == "places" and rig.time.now_us - permit.granted_us > 30 * MIN:
        permit = None  # which refusals belong to a cut is known for an hour; no call is refused so late
    if action == "places":
        penalty = await rig.limiter.penalise(_A, reason="busy", kind="concurrency", permit=permit)
        return penalty.places, penalty.pause_s
    if action == "penalise":
        # Use the present call: the lesson of an older one depends on how much of the log is left.
        penalty = await rig.limiter.penalise(_A, reason="429", retry_after_s=max_wait_s / 30)
        return penalty.pause_s, penalty.scale
    if permit is None:
        return None
    match action:
        case "release" | "give_back":
            await getattr(rig.limiter, action)(permit)
        case "retime" if rig.time.now_us - permit.slot_us < MIN:
            await rig.limiter.retime(permit, [_A])
        case "retime":
            pass  # its shortest period is over
        case "renew":
            await rig.limiter.renew(held)
        case "submitted":
            await rig.limiter.submitted(permit, longest_s=400)
        case _:
            await rig.limiter.observe(_A, permit, [HeaderReading(remaining=images, reset_s=max_wait_s)])
    return None


async def test_every_kind_of_key_dies_soon_after_it_has_lost_its_meaning(redis: Redis) -> None:
    """µs from the last use until it says nothing more, by kind, and never without an end but an open pause."""
    rig = Rig(redis)
    learns = parse_quota("q", {"requests": ["2/min", {"rate": "1/min", "burst": 3}], "adaptive": True})
    large = Quota("large", (Window(9, 5 * MIN), FixedWindow(9, MIN), CalendarDay(9, "UTC"), InFlight(1)))
    permit = await rig.permit(learns)
    await rig.permit(large, request_id="large")
    assert isinstance(await rig.request(large), Later)
    await rig.limiter.observe(learns, permit, [HeaderReading(remaining=0, reset_s=20)])
    await rig.limiter.penalise(learns, retry_after_s=30, reason="429", permit=permit)
    await rig.limiter.penalise(large, retry_after_s=30, reason="busy", kind="concurrency")
    await rig.limiter.report_spread(1)
    await rig.limiter.widen(Quota("bucket", (Bucket(1, MIN, 1),)), permit)
    await rig.limiter.pause("q", "lunch", rig.time.now_us + 10 * S)
    to_midnight_us = DAY - rig.time.now_us % DAY
    rest_us = {
        "clock": 367 * DAY,
        "log": MIN + 600_000 + 0.1 * S,
        "slices": 5 * MIN + 100_000 + 2 * S,
        "tokens": 3 * MIN,
        "fixed": MIN - rig.time.now_us % MIN,
        "day": to_midnight_us,
        "leases": 15 * S,
        "waiting": 8 * S,
        "pause": 10 * S,
        "cooldown": 30 * S + 60 * MIN,
        "places": 60 * MIN,
        "learned": DAY,
        "others": 20 * S,
        "refused": 2 * (MIN + 0.6 * S),
        "permit": 7.5 * S - MARGIN_US,
        "spread": MIN - MARGIN_US,
        "guard": 60 * MIN - MARGIN_US,
    }
    assert set(rest_us) == set(KINDS)
    seen = set()
    keys: Any = await redis.keys(f"{rig.prefix}*")
    for key in keys:
        kind = next(part for part in key.decode().split(":") if part in KINDS)
        ttl_us = 1000 * await redis.pttl(key)
        assert rest_us[kind] + MARGIN_US - 2 * S <= ttl_us <= rest_us[kind] + MARGIN_US + 1000, kind
        seen.add(kind)
    assert seen == set(KINDS)
    await rig.limiter.pause("q", "until resumed")
    endless = [key for key in await redis.keys(f"{rig.prefix}*") if await redis.pttl(key) < 0]
    assert endless == [f"{rig.prefix}:limiter:q:pause".encode()]


async def test_one_call_an_hour_is_held_to_it_over_any_silence_shorter_than_that(redis: Redis) -> None:
    rig = _Mortal(redis, immortal=False)
    slow = parse_quota("slow", {"requests": ["1/h", {"rate": "1/h", "burst": 1}]})
    sent = []
    for _ in range(60):
        await rig.before()
        answer = await rig.request(slow, max_wait_s=0)
        await rig.after()
        if isinstance(answer, Grant):
            sent.append(rig.time.now_us)
        rig.time.advance(7 * MIN + 1)
    assert len(sent) == 7
    assert all(later - earlier > 60 * MIN for earlier, later in itertools.pairwise(sent))


@pytest.mark.parametrize(
    "limit",
    [Window(1, 10 * MIN), Window(4, 10 * MIN), Bucket(1, 10 * MIN, 1)],
    ids=["log", "slices", "bucket"],
)
async def test_a_call_that_was_sent_late_counts_to_its_end(redis: Redis, limit: Window | Bucket) -> None:
    rig, quota = _Mortal(redis, immortal=False), Quota("q", (limit,))
    answer = await rig.request(quota, costs={"requests": limit.most})
    assert isinstance(answer, Grant)
    await rig.after()
    rig.time.advance(5 * MIN)
    await rig.before()
    await rig.limiter.retime(answer.permit, [quota], sent=True)
    await rig.after()
    rig.time.advance(9 * MIN)
    await rig.before()
    later = await rig.request(quota, costs={"requests": limit.most}, max_wait_s=0)
    assert isinstance(later, Later)
    assert MIN <= later.retry_us <= 1.1 * MIN


async def test_an_idle_installation_leaves_nothing_behind(redis: Redis) -> None:
    rig = _Mortal(redis, immortal=False)
    limiter = Limiter(redis, rig.prefix, clock=rig.time)
    permit = await rig.permit(_A, _B)
    await limiter.submitted(permit, longest_s=30)
    await limiter.penalise(_A, reason="429", permit=permit)
    await rig.after()
    rig.time.advance(2 * DAY)
    await rig.before()
    assert await redis.keys(f"{rig.prefix}*") == [f"{rig.prefix}:limiter:clock".encode()]
