"""The server's clock steps, its state is lost, a caller is cancelled: nothing stalls and no slot is granted twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from limiter import Bound, Grant, Later, Limiter, Quota, parse_quota
from tests.limiter.conftest import Rig

S = 1_000_000
WINDOW = parse_quota("api", {"requests": "2/10s"})
SPAN = 10 * S + 100_000
BUCKET = parse_quota("bucket", {"requests": {"rate": "1/s", "burst": 2}})
LEASE = parse_quota("lease", {"in_flight": 1})
MINUTES = parse_quota("minutes", {"requests": "2/10min"})


@pytest.mark.parametrize("step_us", [-1, -S, -S - 1, -60 * S, -86_400 * S])
async def test_a_clock_that_steps_back_stalls_for_no_more_than_a_second(rig: Rig, step_us: int) -> None:
    for _ in range(3):
        await rig.slot(WINDOW, BUCKET)
    await rig.limiter.penalise(Quota("lease"), retry_after_s=5, reason="429")
    rig.time.advance(step_us)
    answers = [await rig.request(quota, max_wait_s=0) for quota in (WINDOW, BUCKET, LEASE)]
    retries = [answer.retry_us if isinstance(answer, Later) else 0 for answer in answers]
    # Everything is as far away as before.
    assert retries == [SPAN, S + 20_000, 5 * S]
    stalled_us = -step_us if step_us >= -S else 0
    rig.time.advance(5 * S + stalled_us)
    assert isinstance(await rig.request(LEASE, max_wait_s=0), Grant)
    rig.time.advance(15 * S)
    assert isinstance(await rig.request(LEASE, max_wait_s=0), Grant)


async def test_a_clock_that_steps_back_grants_no_slot_twice(rig: Rig) -> None:
    true_us, slots = 0, []
    for step in range(60):
        answer = await rig.request(WINDOW, max_wait_s=0)
        if isinstance(answer, Grant):
            slots.append(true_us)
        true_us += S
        rig.time.advance(S - (40 * S if step % 25 == 13 else 0))
    for first, third in zip(slots, slots[2:], strict=False):
        assert third - first >= SPAN
    assert len(slots) >= 8


async def test_after_a_loss_a_process_that_saw_the_state_makes_all_wait(rig: Rig) -> None:
    await rig.slot(WINDOW)
    await rig.slot(MINUTES)
    await rig.client.flushall()
    assert await rig.request(WINDOW, max_wait_s=0) == Later(SPAN, Bound("api", "requests"))
    newcomer = Limiter(rig.client, rig.prefix, clock=rig.time)
    answer = await newcomer.acquire([MINUTES], holder="h", request_id="x", max_wait_s=0)
    assert answer == Later(60 * S, Bound("minutes", "requests"))
    rig.time.advance(SPAN)
    assert await rig.slot(WINDOW) == SPAN


async def test_the_first_start_of_all_waits_for_nothing(rig: Rig) -> None:
    assert await rig.slot(WINDOW, MINUTES, BUCKET, LEASE) == 0


async def test_a_newcomer_after_a_loss_is_corrected_by_a_process_that_knew(rig: Rig) -> None:
    await rig.slot(WINDOW)
    await rig.client.flushall()
    newcomer = Limiter(rig.client, rig.prefix, clock=rig.time)
    assert isinstance(await newcomer.acquire([WINDOW], holder="h", request_id="x", max_wait_s=0), Grant)
    rig.time.advance(S)
    assert await rig.request(WINDOW, max_wait_s=0) == Later(SPAN - S, Bound("api", "requests"))
    rig.time.advance(SPAN)
    assert isinstance(await rig.request(WINDOW, max_wait_s=0), Grant)
    assert isinstance(await newcomer.acquire([WINDOW], holder="h", request_id="y", max_wait_s=0), Grant)


async def test_leases_are_back_after_a_loss_before_the_first_new_one(rig: Rig) -> None:
    permit = await rig.permit(LEASE)
    await rig.client.flushall()
    assert isinstance(await rig.request(LEASE), Later)
    rig.time.advance(5 * S)
    assert await rig.limiter.renew([permit]) == []
    rig.time.advance(11 * S)
    assert isinstance(await rig.request(LEASE), Later)
    await rig.limiter.release(permit)
    assert isinstance(await rig.request(LEASE), Grant)


async def test_live_limits_outlive_long_silences_and_idle_ones_vanish(rig: Rig) -> None:
    slow = parse_quota("slow", {"requests": ["1/30min", {"rate": "1/30min", "burst": 1}]})
    await rig.slot(slow)
    await rig.slot(slow)
    for kind in ("log", "tokens"):
        ttl_ms: Any = await rig.client.pttl(f"{rig.prefix}:limiter:slow:{kind}:requests")
        assert ttl_ms >= 3_600_000
        assert ttl_ms <= 3_600_000 + 120_000


@pytest.mark.parametrize(
    "quota", [WINDOW, BUCKET, parse_quota("d", {"requests": {"rate": "2/d", "reset": "UTC"}})]
)
async def test_a_caller_that_is_cancelled_anywhere_leaves_nothing_behind(rig: Rig, quota: Quota) -> None:
    await rig.limiter.give_back(await rig.permit(quota, LEASE))
    before = await rig.limiter.snapshot([quota, LEASE])
    ended = 0
    for pauses in range(60):
        waiting = asyncio.ensure_future(rig.request(quota, LEASE, max_wait_s=0))
        for _ in range(pauses):
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            answer = await waiting
        except asyncio.CancelledError:
            pass
        else:
            ended += 1
            assert isinstance(answer, Grant)
            await rig.limiter.give_back(answer.permit)
        assert await rig.limiter.snapshot([quota, LEASE]) == before
    assert ended < 60


@pytest.mark.parametrize("end", ["release", "give_back"])
async def test_a_cancelled_end_of_a_call_still_happens(rig: Rig, end: str) -> None:
    for pauses in range(1, 12):
        permit = await rig.permit(LEASE)
        ending = asyncio.ensure_future(getattr(rig.limiter, end)(permit))
        for _ in range(pauses):
            await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
        [state] = await rig.limiter.snapshot([LEASE])
        assert state.in_flight == 0


class _LosesReplies(Redis):
    """Executes every command and loses every reply."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # so in redis-py
        raise ConnectionError("the reply was lost")


async def test_a_request_whose_reply_was_lost_is_charged_once(redis: Redis) -> None:
    rig = Rig(redis)
    await rig.limiter.give_back(await rig.permit(WINDOW, LEASE))
    deaf = Limiter(_LosesReplies(connection_pool=redis.connection_pool), rig.prefix, clock=rig.time)
    with pytest.raises(ConnectionError):
        await deaf.acquire([WINDOW, LEASE], holder="replica-1", request_id="r", max_wait_s=0)
    answer = await rig.request(WINDOW, LEASE, request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    for end in (deaf.release, rig.limiter.release):
        if end == deaf.release:
            with pytest.raises(ConnectionError):
                await end(answer.permit)
        else:
            assert not await end(answer.permit)
    [state] = await rig.limiter.snapshot([WINDOW])
    assert state.units[0].available == 1
