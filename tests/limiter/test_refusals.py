"""One refusal affects the whole fleet: a pause, one cut an epoch, fewer places, evenly spaced calls after it."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from limiter import Bound, Grant, InFlight, Later, Limiter, Permit, Quota, Recalls, Window, parse_quota
from tests.limiter.conftest import Rig

S = 1_000_000
RATE = parse_quota("api", {"requests": "10/10s"})
SPAN = 10 * S + 100_000
PLACES = parse_quota("places", {"in_flight": 8})
# The first call after a pause goes alone for so long.
ALONE, LONGEST_ALONE = S // 4, 10 * S
DAY_S = 86_400


async def _penalise(rig: Rig, permit: Permit | None, retry_after_s: float | None = None, **more: Any) -> Any:
    return await rig.limiter.penalise(
        more.pop("quota", RATE), retry_after_s=retry_after_s, reason="429", permit=permit, **more
    )


async def _wait_us(rig: Rig, quota: Quota, costs: dict[str, int] | None = None) -> int:
    return await rig.slot(quota, costs=costs) - (rig.time.now_us - rig.time.start_us)


async def _generation(rig: Rig, quota: Quota = RATE) -> int:
    [state] = await rig.limiter.snapshot([quota])
    return state.cooldown_generation


async def test_refusals_of_calls_that_were_granted_before_a_cut_cut_no_more(rig: Rig) -> None:
    permits = [await rig.permit(RATE) for _ in range(6)]
    rig.time.advance(S)
    answers = [await _penalise(rig, permit, 5) for permit in permits[:5]]
    assert [answer.generation for answer in answers] == [1] * 5
    rig.time.advance(6 * S)
    # One of the old refusals is reported late, and a call that was granted since is refused.
    assert (await _penalise(rig, permits[5], 5)).generation == 1
    assert (await _penalise(rig, await rig.permit(RATE), 5)).generation == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
async def test_one_refusal_is_one_cut_in_whatever_order_its_reports_come(
    redis: Redis, data: st.DataObject
) -> None:
    """Calls go on to be granted and sent until the first report is there, and all of them are refused."""
    rig, quota = Rig(redis), Quota("api", (Window(1000, S), InFlight(100)))
    permits: list[Permit] = []
    for wait_us in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12)):
        permits.append(await rig.permit(quota))
        rig.time.advance(wait_us)
    for permit in data.draw(st.permutations(permits)):
        await _penalise(rig, permit, 5, quota=quota)
        rig.time.advance(data.draw(st.integers(1, 3)))
    assert await _generation(rig, quota) == 1
    # A grant from after the report is for a slot after the pause; its refusal is news.
    later = await rig.permit(quota)
    assert later.slot_us >= rig.time.now_us + 4 * S
    assert (await _penalise(rig, later, 5, quota=quota)).generation == 2


async def test_a_later_report_of_a_cut_makes_the_pause_longer_and_never_shorter(rig: Rig) -> None:
    permits = [await rig.permit(RATE) for _ in range(3)]
    told_s = zip(permits, (3, 7, 1), strict=True)
    assert [(await _penalise(rig, permit, wait_s)).pause_s for permit, wait_s in told_s] == [3, 7, 7]


async def test_after_a_pause_calls_come_one_by_one_for_a_period(rig: Rig) -> None:
    await _penalise(rig, await rig.permit(RATE), 5)
    slots = [await rig.slot(RATE) for _ in range(14)]
    first = 5 * S
    assert slots[0] == first
    gaps = [later - earlier for earlier, later in itertools.pairwise(slots)]
    assert gaps[:9] == [SPAN // 10] * 9
    # The period is over, and the window alone decides, which is as even as it was filled.
    assert slots[9] + SPAN // 10 <= slots[10] <= first + SPAN


async def test_a_large_window_is_opened_slice_by_slice(rig: Rig) -> None:
    quota = parse_quota("large", {"requests": "25600/min"})
    await rig.limiter.penalise(quota, retry_after_s=5, reason="429")
    rig.time.advance(5 * S)
    slots = [await rig.slot(quota, costs={"requests": 100}) for _ in range(20)]
    assert slots == sorted(slots)
    assert slots[19] - slots[0] >= 18 * 60_100_000 // 256


async def test_a_day_is_not_opened_one_by_one(rig: Rig) -> None:
    quota = parse_quota("daily", {"requests": "100/d"})
    await rig.limiter.penalise(quota, retry_after_s=5, reason="429")
    assert [await rig.slot(quota) for _ in range(3)] == [5 * S, 5 * S + ALONE, 5 * S + ALONE]


async def test_without_a_retry_after_each_early_refusal_doubles_the_pause(rig: Rig) -> None:
    pauses = []
    for _ in range(8):
        answer = await _penalise(rig, await rig.permit(RATE))
        pauses.append(answer.pause_s)
        rig.time.advance(round(answer.pause_s * S) + S)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    rig.time.advance(61 * S)
    assert (await _penalise(rig, await rig.permit(RATE))).pause_s == 1


async def test_the_bell_recalls_earlier_grants(redis: Redis) -> None:
    rig = Rig(redis)
    async with redis.pubsub(ignore_subscribe_messages=True) as bell:
        await bell.subscribe(f"{rig.prefix}:bell")
        while await bell.get_message(timeout=0.1) is not None:
            pass
        before = await rig.permit(RATE)
        rig.time.advance(7)
        await _penalise(rig, before, 5)
        message = await bell.get_message(timeout=2)
        assert message is not None
        what, name, until_us = message["data"].decode().split()
        assert (what, name) == ("quota", "api")
        rig.time.advance(1)
        assert before.granted_us < int(until_us) < (await rig.permit(RATE)).granted_us
        await _penalise(rig, before, 4.9)  # known, and no longer
        await rig.limiter.pause("api", "operator")
        await rig.limiter.resume("api")
        messages = [(await bell.get_message(timeout=2) or {}).get("data") for _ in range(2)]
        assert messages == [b"quota api", b"quota api"]


async def test_concurrency_lowers_the_places_and_not_the_rate(rig: Rig) -> None:
    permits = [await rig.permit(PLACES) for _ in range(8)]
    # The provider runs five; three are refused, and report it one after the other.
    answers = [await _penalise(rig, permit, quota=PLACES, kind="concurrency") for permit in permits[5:]]
    assert [answer.places for answer in answers] == [7, 6, 5]
    assert [answer.pause_s for answer in answers] == [0, 0, 0]
    for permit in permits[4:]:
        await rig.limiter.release(permit)
    assert isinstance(await rig.request(PLACES, max_wait_s=0), Grant)
    later = await rig.request(PLACES, max_wait_s=0)
    assert isinstance(later, Later)
    assert later.bound == Bound("places", "in_flight")
    # One more is tried every half minute, up to what is configured.
    open_places = []
    for _ in range(5):
        rig.time.advance(30 * S)
        [state] = await rig.limiter.snapshot([PLACES])
        open_places.append(state.in_flight + state.units[0].available)
    assert open_places == [6, 7, 8, 8, 8]


async def test_concurrency_with_nothing_in_flight_pauses_and_leaves_one_place(rig: Rig) -> None:
    answer = await _penalise(rig, await rig.permit(PLACES), quota=PLACES, kind="concurrency")
    assert (answer.places, answer.pause_s) == (1, 1)


async def test_a_call_heavier_than_the_places_left_is_granted_alone(rig: Rig) -> None:
    quota = parse_quota("weighed", {"in_flight": {"images": 8}})
    for _ in range(2):
        permit = await rig.permit(quota)
        await _penalise(rig, permit, quota=quota, kind="concurrency")
        await rig.limiter.release(permit)
        rig.time.advance(10 * S)
    assert isinstance(await rig.request(quota, costs={"images": 4}, max_wait_s=0), Grant)


async def test_an_allowance_that_is_used_up_pauses_until_it_is_filled_again(rig: Rig) -> None:
    daily = parse_quota("daily", {"requests": {"rate": "100/day", "reset": "UTC"}})
    until_us = await rig.limiter.exhausted(daily, reason="daily limit reached")
    assert until_us % (86_400 * S) == 0
    assert 0 < until_us - rig.time.now_us <= 86_400 * S
    [state] = await rig.limiter.snapshot([daily])
    assert state.paused_reason == "daily limit reached"
    rig.time.now_us = until_us + 10 * S
    assert isinstance(await rig.request(daily, max_wait_s=0), Grant)
    assert await rig.limiter.exhausted(RATE, reason="?", retry_after_s=90) == rig.time.now_us + 90 * S
    assert await rig.limiter.exhausted(PLACES, reason="?") == rig.time.now_us + 3600 * S


async def test_an_exhausted_allowance_does_not_shorten_an_operators_pause(rig: Rig) -> None:
    await rig.limiter.pause("api", "ask Ana")
    await rig.limiter.exhausted(RATE, reason="daily")
    rig.time.advance(2 * 86_400 * S)
    [state] = await rig.limiter.snapshot([RATE])
    assert state.paused_reason == "ask Ana"
    await rig.limiter.pause("api", "lunch", rig.time.now_us + S)  # an operator's last word counts
    rig.time.advance(2 * S)
    assert isinstance(await rig.request(RATE, max_wait_s=0), Grant)


@pytest.mark.parametrize("lost", ["released", "given back"])
async def test_a_cut_knows_the_permit_from_its_text(rig: Rig, lost: str) -> None:
    permit = Permit.from_json((await rig.permit(RATE)).to_json())
    other = Limiter(rig.client, rig.prefix, clock=rig.time)
    await (other.release(permit) if lost == "released" else other.give_back(permit))
    first = await _penalise(rig, permit, 1)
    assert (await _penalise(rig, permit, 1)).generation == first.generation == 1


async def test_a_repeated_report_changes_nothing(rig: Rig) -> None:
    permits = [await rig.permit(PLACES) for _ in range(8)]
    first = await _penalise(rig, permits[7], quota=PLACES, kind="concurrency")
    for _ in range(3):
        again = await _penalise(rig, permits[7], quota=PLACES, kind="concurrency")
        assert (again.places, again.cut) == (first.places, False) == (7, False)


async def test_a_late_report_of_an_old_cut_makes_no_new_pause(rig: Rig) -> None:
    permits = [await rig.permit(RATE) for _ in range(3)]
    await _penalise(rig, permits[0])
    rig.time.advance(30 * S)
    assert (await _penalise(rig, permits[1])).pause_s == 0
    assert (await _penalise(rig, permits[2], 4)).pause_s == 4, "unless the provider says for how long"


async def test_concurrency_neither_paces_nor_recalls_grants_of_the_rate(redis: Redis) -> None:
    rig = Rig(redis)
    quota = parse_quota("both", {"requests": "20/min", "in_flight": 8})
    permits = [await rig.permit(quota) for _ in range(3)]
    async with redis.pubsub(ignore_subscribe_messages=True) as bell:
        await bell.subscribe(f"{rig.prefix}:bell")
        while await bell.get_message(timeout=0.1) is not None:
            pass
        await _penalise(rig, permits[2], quota=quota, kind="concurrency")
        await rig.limiter.release(permits[2])
        await rig.limiter.release(permits[1])
        await rig.client.publish(f"{rig.prefix}:bell", "end")
        message = await bell.get_message(timeout=1)
    assert message is not None
    assert message["data"] == b"end"
    assert await rig.slot(quota) == 0


async def test_a_refusal_of_the_rate_cuts_even_after_a_cut_of_concurrency(rig: Rig) -> None:
    quota = parse_quota("both", {"requests": "20/min", "in_flight": 8})
    permits = [await rig.permit(quota) for _ in range(3)]
    assert (await _penalise(rig, permits[0], quota=quota, kind="concurrency")).cut
    assert (await _penalise(rig, permits[1], 1, quota=quota)).cut


@pytest.mark.parametrize("named_s", [0, -3, 0.05, 0.9])
@pytest.mark.parametrize("kind", ["rate", "overload", "concurrency"])
@pytest.mark.parametrize("quota", [RATE, PLACES])
async def test_a_short_named_pause_grows_like_an_unnamed_one(
    rig: Rig, quota: Quota, kind: str, named_s: float
) -> None:
    pauses = []
    for _ in range(7):
        permit = await rig.permit(quota)
        answer = await _penalise(rig, permit, named_s, quota=quota, kind=kind)
        await rig.limiter.release(permit)
        pauses.append(answer.pause_s)
        rig.time.advance(round(answer.pause_s * S))
    assert pauses == [1, 2, 4, 8, 16, 32, 60]


async def test_a_longer_named_pause_counts_until_our_own_is_longer(rig: Rig) -> None:
    pauses = []
    for _ in range(5):
        answer = await _penalise(rig, await rig.permit(RATE), 5)
        pauses.append(answer.pause_s)
        rig.time.advance(round(answer.pause_s * S))
    assert pauses == [5, 5, 5, 8, 16]


async def test_a_rate_that_is_learned_pauses_shortly_only_once(rig: Rig) -> None:
    quota = parse_quota("learns", {"requests": "10/s", "adaptive": True})
    pauses = []
    for _ in range(4):
        answer = await _penalise(rig, await rig.permit(quota), quota=quota)
        pauses.append(answer.pause_s)
        rig.time.advance(round(answer.pause_s * S))
    assert pauses == [0.0625, 2, 4, 8]


async def test_the_last_refusal_of_several_calls_pauses_a_full_account(rig: Rig) -> None:
    permits = [await rig.permit(PLACES) for _ in range(4)]
    answers = []
    for permit in permits:
        answers.append(await _penalise(rig, permit, 0, quota=PLACES, kind="concurrency"))
        await rig.limiter.release(permit)
    assert [answer.pause_s for answer in answers] == [0, 0, 0, 1]


async def test_the_first_call_after_a_pause_goes_alone(rig: Rig) -> None:
    quota = parse_quota("places", {"in_flight": 100})
    for lone_us in (ALONE, S // 2, S, 2 * S, 4 * S, 8 * S, LONGEST_ALONE):
        answer = await _penalise(rig, await rig.permit(quota), quota=quota)
        ends = round(answer.pause_s * S)
        waits = [await _wait_us(rig, quota) for _ in range(3)]
        assert waits == [ends, ends + lone_us, ends + lone_us]
        rig.time.advance(ends + lone_us)


@pytest.mark.parametrize("allowance", [False, True])
async def test_a_lone_call_that_is_given_back_leaves_its_turn_to_the_next(
    redis: Redis, allowance: bool
) -> None:
    rig = Rig(redis)
    if allowance:
        rig.time.now_us = await rig.limiter.exhausted(PLACES, reason="spent")
    else:
        answer = await _penalise(rig, await rig.permit(PLACES), 90, quota=PLACES)
        rig.time.advance(round(answer.pause_s * S))
    lone, behind = await rig.permit(PLACES), await rig.permit(PLACES)
    assert behind.slot_us - lone.slot_us == LONGEST_ALONE
    requested_at, recalls = rig.time.now_us / 1e6, Recalls(lambda: rig.time.now_us / 1e6)
    async with rig.client.pubsub() as bell:
        await bell.subscribe(f"{rig.prefix}:bell")
        await bell.get_message(timeout=5)
        rig.time.advance(S // 2)
        await rig.limiter.give_back(behind)
        await rig.limiter.give_back(lone)
        message = await bell.get_message(timeout=5, ignore_subscribe_messages=True)
        assert recalls.note(message["data"].decode())
    assert recalls.covers(behind, requested_at), "it was to follow the call that was not sent"
    await rig.limiter.give_back(lone)
    assert [await _wait_us(rig, PLACES) for _ in range(3)] == [0, LONGEST_ALONE, LONGEST_ALONE]


async def test_a_lone_call_that_is_given_back_too_late_stops_nobody(rig: Rig) -> None:
    answer = await _penalise(rig, await rig.permit(PLACES), 90, quota=PLACES)
    rig.time.advance(round(answer.pause_s * S))
    lone = await rig.permit(PLACES)
    rig.time.advance(LONGEST_ALONE)
    await rig.limiter.give_back(lone)
    assert [await _wait_us(rig, PLACES) for _ in range(2)] == [0, 0]


async def test_a_refusal_after_the_lone_call_keeps_its_pause(rig: Rig) -> None:
    early = [await rig.permit(PLACES) for _ in range(2)]
    answer = await _penalise(rig, early[0], 90, quota=PLACES)
    rig.time.advance(round(answer.pause_s * S))
    lone = await rig.permit(PLACES)
    await _penalise(rig, early[1], 100, quota=PLACES)
    await rig.limiter.give_back(lone)
    [state] = await rig.limiter.snapshot([PLACES])
    assert (state.cooldown_s, state.cooldown_reason) == (100, "429")


async def test_a_poll_does_not_go_for_the_lone_call(rig: Rig) -> None:
    quota = parse_quota("polled", {"requests": "10/s", "polls": "20/s"})
    await _penalise(rig, await rig.permit(quota), 2, quota=quota)
    rig.time.advance(2 * S)
    assert await _wait_us(rig, quota.polls, costs={"polls": 1}) == 0
    assert [await _wait_us(rig, quota) for _ in range(2)] == [0, ALONE]


@pytest.mark.parametrize(
    ("named_s", "words"), [(1e9, "a wait of 11,574 days"), (math.inf, "an endless wait")]
)
async def test_no_pause_lasts_longer_than_a_day_and_its_reason_names_the_wait(
    rig: Rig, named_s: float, words: str
) -> None:
    assert (await _penalise(rig, await rig.permit(RATE), named_s)).pause_s == DAY_S
    [state] = await rig.limiter.snapshot([RATE])
    assert state.cooldown_reason == f"429 (the provider named {words}; a call tries again after one day)"


async def test_a_named_nan_is_an_unnamed_pause(rig: Rig) -> None:
    assert (await _penalise(rig, await rig.permit(RATE), math.nan)).pause_s == 1


async def test_after_an_absurd_pause_one_call_tries_the_allowance(rig: Rig) -> None:
    until_us = await rig.limiter.exhausted(PLACES, reason="spent", retry_after_s=1e9)
    assert until_us == rig.time.now_us + DAY_S * S
    [state] = await rig.limiter.snapshot([PLACES])
    assert state.paused_reason is not None
    assert "a wait of 11,574 days" in state.paused_reason
    # A refused call of before the pause shortens nothing that is known about it.
    await _penalise(rig, None, quota=PLACES, kind="overload")
    await rig.limiter.exhausted(PLACES, reason="spent", retry_after_s=1e9)
    assert await rig.client.pttl(f"{rig.prefix}:limiter:places:cooldown") > DAY_S * 1000
    rig.time.advance(DAY_S * S)
    probe = await rig.permit(PLACES)
    assert await _wait_us(rig, PLACES) == LONGEST_ALONE, "all others wait for its answer"
    # It is refused: the account is silent for another day, and then one call tries again.
    again_us = await rig.limiter.exhausted(PLACES, reason="spent", retry_after_s=1e9, permit=probe)
    assert again_us == rig.time.now_us + DAY_S * S
    assert isinstance(await rig.request(PLACES, max_wait_s=0), Later)
    rig.time.advance(DAY_S * S)
    await rig.permit(PLACES)
    # It is served: the others follow.
    rig.time.advance(LONGEST_ALONE)
    assert [await _wait_us(rig, PLACES) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(("named_s", "pause_s"), [(0, 3600), (-1, 3600), (0.05, 60), (5, 60)])
async def test_an_exhausted_allowance_is_not_tried_again_at_once(
    rig: Rig, named_s: float, pause_s: float
) -> None:
    until_us = await rig.limiter.exhausted(PLACES, reason="spent", retry_after_s=named_s)
    assert until_us == rig.time.now_us + pause_s * S


async def test_an_allowance_filled_since_the_call_was_sent_is_tried_again_soon(rig: Rig) -> None:
    daily = parse_quota("daily", {"requests": {"rate": "100/day", "reset": "UTC"}})
    rig.time.now_us = rig.time.now_us // (86_400 * S) * 86_400 * S + 86_395 * S
    permit = await rig.permit(daily)
    rig.time.advance(6 * S)
    assert await rig.limiter.exhausted(daily, reason="daily", permit=permit) == rig.time.now_us + 60 * S
    assert await rig.limiter.exhausted(daily, reason="daily") > rig.time.now_us + 86_000 * S


@pytest.mark.parametrize("fields", [6, 7])
async def test_a_permit_as_it_used_to_be_written_is_still_one(rig: Rig, fields: int) -> None:
    permit = await rig.permit(PLACES)
    old = Permit.from_json(json.dumps(json.loads(permit.to_json())[:fields]))
    assert await rig.limiter.release(old)


async def test_concurrency_without_places_is_one_cut_and_pauses_longer_each_time(rig: Rig) -> None:
    permits = [await rig.permit(RATE) for _ in range(3)]
    answers = [await _penalise(rig, permit, kind="concurrency") for permit in permits]
    assert [answer.cut for answer in answers] == [True, False, False]
    rig.time.advance(2 * S)
    assert (await _penalise(rig, await rig.permit(RATE), kind="concurrency")).pause_s == 2


async def test_a_refusal_for_places_forgets_the_pauses_of_long_ago(redis: Redis) -> None:
    rig = Rig(redis)
    quota = parse_quota("q", {"requests": "10/min", "in_flight": 3})
    for _ in range(3):
        paused = await rig.limiter.penalise(quota, reason="429")
        rig.time.advance(round(paused.pause_s * S) + 1)
    rig.time.advance(600 * S)
    assert (await rig.limiter.penalise(quota, reason="busy", kind="concurrency")).pause_s == 1.0
