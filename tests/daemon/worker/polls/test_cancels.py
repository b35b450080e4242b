"""Polls that are cancelled: they leave their line, charge nothing, and hold up no other poll."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.worker.polls import pacer
from limiter import Permit
from tests.daemon.harness import eventually
from tests.daemon.worker.polls.fleet import Fleet


async def test_a_run_that_is_cancelled_leaves_the_line_and_its_poll_is_not_charged(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(redis, polls="2/10s")
    replies = fleet.hold_replies(monkeypatch)
    runs = [asyncio.create_task(fleet.poll()) for _ in range(5)]
    await replies.came.wait()
    runs[1].cancel()
    runs[3].cancel()
    replies.may_come.set()
    ended = await asyncio.gather(*runs, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ended] == [False, True, False, True, False]
    assert sum(fleet.limiters[0].sizes) == 3, "the polls behind used the first permit"


async def test_a_poll_that_joins_a_deserted_line_uses_the_permit_under_way(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(redis, polls="10/10s")
    replies = fleet.hold_replies(monkeypatch)
    first = asyncio.create_task(fleet.poll())
    await replies.came.wait()
    first.cancel()
    second = asyncio.create_task(fleet.poll())
    await asyncio.wait([first])
    replies.may_come.set()
    await asyncio.wait_for(second, 5)
    assert fleet.limiters[0].sizes == [1]
    assert await fleet.free() == 9


async def test_a_permit_whose_polls_were_all_cancelled_is_given_back(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(redis, polls="10/10s")
    replies = fleet.hold_replies(monkeypatch)
    runs = [asyncio.create_task(fleet.poll()) for _ in range(3)]
    await replies.came.wait()
    for run in runs:
        run.cancel()
    replies.may_come.set()
    await fleet.is_idle()
    assert fleet.limiters[0].sizes == [3]
    assert await fleet.free() == 10
    await asyncio.wait_for(fleet.poll(), 5)
    assert await fleet.free() == 9


async def test_a_poll_that_is_cancelled_when_its_turn_comes_is_not_charged(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.worker.polls.pacer.LEAVES_IN_S", 3600.0)
    fleet = Fleet(redis, polls="10/10s")
    let_leave = pacer._Line.let_leave

    def called(line: Any, *args: Any) -> Any:
        leaving = let_leave(line, *args)
        first.cancel()
        return leaving

    monkeypatch.setattr(pacer._Line, "let_leave", called)
    first = asyncio.create_task(fleet.poll())
    await asyncio.wait([first])
    monkeypatch.undo()
    await asyncio.wait_for(fleet.poll(), 5)
    await fleet.is_idle()
    assert len(fleet.left_at_us[0]) == 1
    assert await fleet.free() == 9


async def test_a_deserted_line_leaves_its_reservation_while_the_next_one_starts(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, log = Fleet(redis, polls="1/min"), "pixmill:limiter:q:log:polls"
    limiter, naps = fleet.limiters[0], fleet.naps[0]
    await fleet.poll()
    denied, leaves, may_leave = asyncio.Event(), asyncio.Event(), asyncio.Event()
    give_back = limiter.give_back

    async def nap(seconds: float) -> None:
        if len(limiter.requested) == 3:
            denied.set()
            await asyncio.wait([first])
        await fleet.clock.sleep(seconds)

    async def slowly(permit: Permit) -> None:
        leaves.set()
        await may_leave.wait()
        await give_back(permit)

    monkeypatch.setattr(naps, "nap", nap)
    monkeypatch.setattr(limiter, "give_back", slowly)
    first = asyncio.create_task(fleet.poll())
    await asyncio.wait_for(denied.wait(), 5)
    assert await redis.zcard(log) == 2, "the second denial made a reservation"
    deserted_us = fleet.clock.now_us
    first.cancel()
    await asyncio.wait_for(leaves.wait(), 5)
    assert fleet.clock.now_us - deserted_us <= pacer.LONGEST_WAIT_S * 1e6, "it is left soon"
    monkeypatch.setattr(naps, "nap", fleet.clock.sleep)
    second = asyncio.create_task(fleet.poll())
    await asyncio.sleep(0)
    may_leave.set()
    await asyncio.wait_for(second, 5)
    await fleet.is_idle()
    assert len(limiter.granted) == 2
    assert await redis.zcount(log, fleet.clock.now_us - 60_000_000, "+inf") == 1


async def test_closing_ends_the_line(redis: Redis) -> None:
    fleet = Fleet(redis, polls="1/h")
    fleet.naps[0].nap = lambda _seconds: asyncio.Event().wait()  # type: ignore[assignment,return-value]  # never ends
    runs = [asyncio.create_task(fleet.poll()) for _ in range(2)]

    async def requested() -> bool:
        return bool(fleet.limiters[0].requested)

    await eventually(requested)
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)
    await asyncio.wait_for(fleet.pacers[0].aclose(), 5)
    assert not any(task.get_name().startswith("polls") for task in asyncio.all_tasks())
