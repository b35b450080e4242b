"""An explanation names the reason of a wait in one sentence, charges nothing and takes no place."""

from __future__ import annotations

import pytest

from limiter import Grant, Quota, QuotaState, UnitState, parse_quota
from limiter.explain import Explanation, spelled, wait_text
from limiter.explain import explained as put_together
from tests.limiter.conftest import Rig

IMAGES = UnitState("images", 20, 3)
NO_IMAGES = UnitState("images", 20, 0)
FULL = UnitState("in_flight", 8, 0)
PLACES = UnitState("in_flight", 8, 3)


def state(
    *units: UnitState, in_flight: int = 5, cooldown_s: float = 0.0, paused: str | None = None
) -> QuotaState:
    return QuotaState("api", units, in_flight, cooldown_s, "rate_limited" if cooldown_s else None, 1, paused)


@pytest.mark.parametrize(
    ("known", "rate_s", "bound", "expected"),
    [
        (state(IMAGES, PLACES), 0, None, "a call can be sent now; 3 of 20 images free, 5 of 8 in flight"),
        (state(NO_IMAGES, PLACES), 9, "images", "its images are used up; the next slot is in 9.0 s; 0 of 20"),
        (state(IMAGES, FULL, in_flight=8), 0, "in_flight", "the next slot is when one of these calls ends"),
        (state(NO_IMAGES, cooldown_s=12), 9, "cooldown", "a pause (rate_limited); the next slot is in 12 s"),
        (state(IMAGES, paused="invoice"), 0, "paused", "paused (invoice), until it is resumed"),
        (state(IMAGES, cooldown_s=12, paused=""), 0, "paused", "paused, until it is resumed"),
    ],
)
def test_a_sentence_names_the_bound_of_the_next_call(
    known: QuotaState, rate_s: float, bound: str | None, expected: str
) -> None:
    explanation = put_together(Quota("api"), known, "images", rate_s)
    assert explanation.bound == bound
    assert expected in explanation.sentence
    assert "\n" not in explanation.sentence


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.1 s"),
        (0.44, "0.4 s"),
        (12.2, "12 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_waits_are_spelled_for_people(seconds: float, expected: str) -> None:
    assert wait_text(seconds) == expected


def test_limits_are_spelled_as_they_were_configured() -> None:
    quota = parse_quota(
        "api",
        {
            "images": ["20/min", "60/10s"],
            "requests": {"rate": "50/min", "burst": 5},
            "polls": {"every": "2s"},
            "in_flight": {"images": 16},
        },
    )
    day = parse_quota("day", {"requests": {"rate": "2000/day", "reset": "Asia/Shanghai"}})
    second = parse_quota("second", {"requests": "1/s", "in_flight": 1})
    assert [spelled(limit) for limit in (*quota.limits, *day.limits, *second.limits)] == [
        "images 20/min",
        "images 60/10s",
        "requests 50/min (burst 5)",
        "polls 1 every 2s",
        "in_flight 16 images",
        "requests 2000/day (Asia/Shanghai)",
        "requests 1/s",
        "in_flight 1",
    ]


async def explained(rig: Rig, quota: Quota) -> Explanation:
    (explanation,) = await rig.limiter.explain([quota])
    return explanation


WINDOW = parse_quota("api", {"images": "2/10s"})
DAY = parse_quota("api", {"images": {"rate": "2/day", "reset": "UTC"}})
TOKENS = parse_quota("api", {"requests": {"rate": "1/s", "burst": 2}})
LARGE = parse_quota("api", {"requests": "2001/s"})
PLACE = parse_quota("api", {"images": "20/min", "in_flight": 1})


async def test_an_idle_quota_grants_now(rig: Rig) -> None:
    for quota in (WINDOW, DAY, TOKENS, LARGE, PLACE, parse_quota("only", {"in_flight": 1})):
        now = await explained(rig, quota)
        assert (now.bound, now.next_slot_s) == (None, 0.0)
        assert now.sentence.startswith("a call can be sent now; ")
    assert await rig.limiter.explain([]) == []


@pytest.mark.parametrize("quota", [WINDOW, DAY, TOKENS], ids=["window", "day", "tokens"])
async def test_the_next_slot_is_when_the_next_call_is_granted(rig: Rig, quota: Quota) -> None:
    for _ in range(2):
        await rig.slot(quota)
    before = await explained(rig, quota)
    assert before.bound == quota.limits[0].unit
    assert before.next_slot_s is not None
    answer = await rig.request(quota, max_wait_s=100_000.0)
    assert isinstance(answer, Grant)
    assert answer.wait_us / 1e6 == pytest.approx(before.next_slot_s, abs=2e-6)
    assert answer.wait_us > 0


async def test_looking_writes_nothing(rig: Rig) -> None:
    await rig.slot(PLACE)
    known = await rig.dump()
    assert (await explained(rig, PLACE)).bound == "in_flight"
    await explained(rig, WINDOW)
    assert await rig.dump() == known


async def test_a_full_quota_waits_for_the_end_of_a_call(rig: Rig) -> None:
    permit = await rig.permit(PLACE)
    full = await explained(rig, PLACE)
    assert (full.bound, full.next_slot_s) == ("in_flight", None)
    await rig.limiter.release(permit)
    assert (await explained(rig, PLACE)).bound is None


async def test_a_cooldown_is_explained_with_its_reason_and_its_rest(rig: Rig) -> None:
    await rig.limiter.penalise(Quota("api"), retry_after_s=30, reason="rate_limited")
    rig.time.advance(10_000_000)
    cooling = await explained(rig, WINDOW)
    assert (cooling.bound, cooling.next_slot_s) == ("cooldown", 20.0)
    assert "(rate_limited); the next slot is in 20 s" in cooling.sentence


async def test_a_pause_is_explained_with_its_end_if_it_has_one(rig: Rig) -> None:
    await rig.limiter.pause("api", "invoice")
    open_end = await explained(rig, WINDOW)
    assert (open_end.bound, open_end.next_slot_s, open_end.pause_ends_s) == ("paused", None, None)
    assert open_end.sentence.startswith("paused (invoice), until it is resumed; ")
    await rig.limiter.pause("api", "invoice", rig.time.now_us + 600_000_000)
    timed = await explained(rig, WINDOW)
    assert (timed.next_slot_s, timed.pause_ends_s) == (600.0, 600.0)
    assert timed.sentence.startswith("paused (invoice), for 10 min 0 s more; ")


async def test_a_learned_rate_is_explained(rig: Rig) -> None:
    quota = parse_quota("api", {"requests": "40/4s", "in_flight": 8, "adaptive": True})
    permits = [await rig.permit(quota) for _ in range(4)]
    await rig.limiter.penalise(quota, reason="busy", kind="concurrency", permit=permits[3])
    await rig.limiter.release(permits[3])
    [state] = await rig.limiter.snapshot([quota])
    assert "3 of 8 in flight, of which the provider allows 3 for now" in put_together(quota, state).sentence
    rig.time.advance(1_000_000)
    permit = await rig.permit(Quota("api", quota.limits[:1], adaptive=True))
    await rig.limiter.penalise(quota, retry_after_s=0, reason="429", permit=permit)
    [state] = await rig.limiter.snapshot([quota])
    assert f"learned to use {state.scale:.0%} of the rate" in put_together(quota, state).sentence
