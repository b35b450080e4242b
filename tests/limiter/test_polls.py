"""Polls of tasks: a rate of their own, which nothing that is about new calls can stop."""

from __future__ import annotations

import pytest

from limiter import Bound, Grant, Later, QuotaError, parse_quota
from tests.limiter.conftest import Rig

POLLS = {"polls": 1}
QUOTA = parse_quota("q", {"requests": "10/10s", "images": "5/10s", "in_flight": 2, "polls": "4/10s"})


def test_a_quota_knows_its_limits_on_polls_alone() -> None:
    polls = QUOTA.polls
    assert (polls.name, [limit.unit for limit in polls.limits], polls.adaptive) == (
        "q.polls",
        ["polls"],
        False,
    )
    assert parse_quota("r", {"requests": "10/10s"}).polls.limits == ()


def test_no_other_quota_can_have_the_name_of_the_polls_of_an_account() -> None:
    with pytest.raises(QuotaError, match="write 'q-polls'"):
        parse_quota("q.polls", {"requests": "10/10s"})
    assert parse_quota("q" * 64, {"requests": "10/10s"}).polls.name == "q" * 64 + ".polls"


@pytest.mark.parametrize("stop", ["pause", "cooldown"])
async def test_pauses_of_new_calls_do_not_stop_polls(rig: Rig, stop: str) -> None:
    if stop == "pause":
        await rig.limiter.pause("q", "the invoice is disputed")
    else:
        await rig.limiter.penalise(QUOTA, reason="429", retry_after_s=60)
    refused = await rig.request(QUOTA, max_wait_s=0)
    assert isinstance(refused, Later)
    assert refused.bound == Bound("q", "paused" if stop == "pause" else stop)
    for _ in range(4):
        granted = await rig.request(QUOTA.polls, costs=POLLS, max_wait_s=0)
        assert isinstance(granted, Grant)
        assert granted.wait_us == 0
    full = await rig.request(QUOTA.polls, costs=POLLS, max_wait_s=0)
    assert isinstance(full, Later)
    assert full.bound == Bound("q.polls", "polls"), "their own limit holds all the same"


async def test_a_refused_poll_stops_polls_and_no_calls(rig: Rig) -> None:
    await rig.limiter.penalise(QUOTA.polls, reason="429", retry_after_s=60)
    refused = await rig.request(QUOTA.polls, costs=POLLS, max_wait_s=0)
    assert isinstance(refused, Later)
    assert refused.bound == Bound("q.polls", "cooldown")
    call = await rig.request(QUOTA, max_wait_s=0)
    assert isinstance(call, Grant)


async def test_polls_without_limits_wait_for_their_cooldown(rig: Rig) -> None:
    polls = parse_quota("r", {"requests": "10/10s"}).polls
    assert isinstance(await rig.request(polls, costs=POLLS, max_wait_s=0), Grant)
    await rig.limiter.penalise(polls, reason="429", retry_after_s=5)
    granted = await rig.request(polls, costs=POLLS, max_wait_s=10)
    assert isinstance(granted, Grant)
    assert granted.wait_us == 5_000_000
    await rig.limiter.give_back(granted.permit)


async def test_a_call_under_a_quota_of_polls_alone_is_still_stopped_by_a_pause(rig: Rig) -> None:
    quota = parse_quota("p", {"polls": "4/10s"})
    await rig.limiter.pause("p", "stop")
    assert isinstance(await rig.request(quota, max_wait_s=0), Later)


async def test_polls_take_no_place_in_flight_and_use_up_no_calls(rig: Rig) -> None:
    for _ in range(4):
        await rig.request(QUOTA.polls, costs=POLLS)
    [state] = await rig.limiter.snapshot([QUOTA])
    left = {unit.unit: unit.available for unit in state.units}
    assert state.in_flight == 0
    assert left == {"requests": 10, "images": 5, "in_flight": 2, "polls": 0}


async def test_a_quota_of_polls_alone_shows_its_cooldown(rig: Rig) -> None:
    quota = parse_quota("p", {"polls": "4/10s"})
    await rig.limiter.penalise(quota, reason="429", retry_after_s=60)
    [state] = await rig.limiter.snapshot([quota])
    assert (state.cooldown_s, state.cooldown_reason) == (60, "429")
    [explanation] = await rig.limiter.explain([quota])
    assert explanation.bound == "cooldown"
