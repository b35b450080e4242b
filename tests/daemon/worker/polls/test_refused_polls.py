"""A poll that the provider refuses pauses the polls of the account on every replica, and no new call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.worker.polls.pacer import KNOWN_S
from limiter import Grant
from providers.errors import ErrorKind, ProviderError
from tests.daemon.worker.polls.fleet import Fleet

LIMITS = [{"images": "20/min"}, {"images": "20/min", "polls": "100/10s"}]


def refusal(retry_after_s: float | None = 30.0) -> ProviderError:
    return ProviderError(ErrorKind.RATE_LIMITED, "Slow down.", http_status=429, retry_after_s=retry_after_s)


@pytest.mark.parametrize("limits", LIMITS, ids=["no-limit-on-polls", "limited-polls"])
async def test_a_refused_poll_pauses_the_polls_of_all_replicas(redis: Redis, limits: dict[str, Any]) -> None:
    fleet = Fleet(redis, 2, **limits)
    await fleet.poll(1)
    refused_at_us = fleet.clock.now_us
    await fleet.refused_poll(refusal())
    await asyncio.gather(*(fleet.poll(number % 2) for number in range(8)))
    later_us = [at_us for replica in fleet.left_at_us for at_us in replica if at_us > refused_at_us]
    assert len(later_us) == 8
    assert min(later_us) >= refused_at_us + 30_000_000
    assert min(later_us) <= refused_at_us + 33_000_000, "and not longer"


@pytest.mark.parametrize("limits", LIMITS, ids=["no-limit-on-polls", "limited-polls"])
async def test_new_calls_go_on_while_polls_are_paused(redis: Redis, limits: dict[str, Any]) -> None:
    fleet = Fleet(redis, **limits)
    await fleet.refused_poll(refusal())
    call = await fleet.limiters[0].acquire(fleet.route.quotas, holder="w", request_id="call", max_wait_s=0)
    assert isinstance(call, Grant)
    assert call.wait_us == 0


@pytest.mark.parametrize("limits", LIMITS, ids=["no-limit-on-polls", "limited-polls"])
async def test_the_first_poll_after_a_pause_goes_alone(redis: Redis, limits: dict[str, Any]) -> None:
    fleet = Fleet(redis, **limits)
    await fleet.refused_poll(refusal())
    await asyncio.gather(*(fleet.poll() for _ in range(40)))
    first_us, *others_us = sorted(fleet.left_at_us[0])
    assert len(others_us) == 39
    assert min(others_us) >= first_us + 250_000, "a quarter of our own pause later"


async def test_a_recalled_permit_for_many_polls_is_followed_by_one_for_one(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(redis, polls="100/10s")
    await fleet.poll()
    fleet.clock.now_us += 1
    acquire = fleet.limiters[0].acquire

    async def recalled(*args: Any, **more: Any) -> Any:
        monkeypatch.undo()
        reply = await acquire(*args, **more)
        fleet.naps[0].note("quota q.polls")
        fleet.clock.now_us += 1
        return reply

    monkeypatch.setattr(fleet.limiters[0], "acquire", recalled)
    await asyncio.gather(*(fleet.poll() for _ in range(20)))
    assert fleet.limiters[0].sizes == [1, 20, 1, 19]


async def test_without_a_named_time_each_refusal_doubles_the_pause(redis: Redis) -> None:
    fleet = Fleet(redis, images="20/min")
    pauses_s = []
    for _ in range(3):
        await fleet.refused_poll(refusal(None))
        (state,) = await fleet.limiters[0].snapshot([fleet.route.quotas[0].polls])
        pauses_s.append(state.cooldown_s)
    assert pauses_s == pytest.approx([1, 2, 4], abs=1e-5)


async def test_polls_that_left_together_pause_once(redis: Redis) -> None:
    fleet = Fleet(redis, images="20/min")
    turns = await asyncio.gather(*(fleet.pacers[0].turn(fleet.route) for _ in range(10)))
    for turn in turns:
        turn.left()
    for turn in turns:
        await fleet.accounts[0].polls_refused(refusal(None), fleet.route, turn.permits, 60)
        fleet.clock.now_us += 1000
    (state,) = await fleet.limiters[0].snapshot([fleet.route.quotas[0].polls])
    assert state.cooldown_s == pytest.approx(0.99)
    assert state.cooldown_generation == 1


async def test_a_wish_for_a_long_silence_is_cut_to_a_minute(redis: Redis) -> None:
    fleet = Fleet(redis, images="20/min")
    await fleet.refused_poll(refusal(7200))
    (state,) = await fleet.limiters[0].snapshot([fleet.route.quotas[0].polls])
    assert state.cooldown_s == pytest.approx(60, abs=1e-5)


async def test_an_account_without_a_limit_on_polls_costs_one_request_in_a_while(redis: Redis) -> None:
    fleet = Fleet(redis, images="20/min")
    for _ in range(30):
        await fleet.poll()
    assert len(fleet.limiters[0].requested) == 1
    fleet.clock.now_us += round(KNOWN_S * 1e6) + 1
    await fleet.poll()
    assert len(fleet.limiters[0].requested) == 2, "the bell may have been silent"
    fleet.naps[0].note("quota q.polls 1")
    await fleet.poll()
    assert len(fleet.limiters[0].requested) == 3
