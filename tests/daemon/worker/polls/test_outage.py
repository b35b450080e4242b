"""Polls while Redis is away: they go on at a part of the limits that were known last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.worker.polls import pacer
from daemon.worker.polls.pacer import TOGETHER, Turn
from limiter import Quota, parse_quota
from tests.daemon.harness import eventually
from tests.daemon.worker.polls.fleet import Fleet

AWAY = RedisConnectionError("away")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a Redis that is there may be slow to reply: no poll leaves without it then."""
    monkeypatch.setattr(pacer, "PATIENCE_S", 3600)


def fails(monkeypatch: pytest.MonkeyPatch, fleet: Fleet, *names: str) -> None:
    """Let these methods fail from now on, and the pacer wait no longer for a grant that cannot come."""
    if "acquire" in names:
        monkeypatch.setattr(pacer, "PATIENCE_S", 0.01)

    async def away(*_: object, **__: object) -> None:
        raise AWAY

    for name in names:
        monkeypatch.setattr(fleet.limiters[0], name, away)


def quotas(polls: object) -> list[Quota]:
    return [parse_quota("a", {"polls": polls}).polls, parse_quota("b", {"polls": "1000/s"}).polls]


@pytest.mark.parametrize(
    ("polls", "gap_s"),
    [("20/10s", 0.5), ({"rate": "4/s", "burst": 9}, 0.25), ({"every": "2s"}, 2), ("60/min", 1)],
)
def test_the_gap_is_that_of_the_tightest_limit(polls: object, gap_s: float) -> None:
    assert pacer._gap_s(quotas(polls)) == pytest.approx(gap_s)
    assert pacer._gap_s([parse_quota("a", {"in_flight": 1}).polls]) == 0


async def test_polls_of_an_account_with_a_limit_leave_one_by_one(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacer, "_gap_s", lambda _quotas: 0.02)
    fleet = Fleet(redis, polls="10/s")
    fails(monkeypatch, fleet, "acquire")
    left: list[int] = []
    let_leave = pacer._Line.let_leave

    def counted(line: Any, count: int, *args: Any) -> Any:
        left.append(count)
        return let_leave(line, count, *args)

    monkeypatch.setattr(pacer._Line, "let_leave", counted)
    await asyncio.gather(*(fleet.poll() for _ in range(3)))
    assert set(left) == {1}
    await fleet.pacers[0].aclose()


async def test_polls_of_an_account_without_a_limit_leave_together(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(redis, images="1/h")
    fails(monkeypatch, fleet, "acquire")
    turns = [asyncio.create_task(fleet.pacers[0].turn(fleet.route)) for _ in range(TOGETHER + 1)]

    def gone() -> int:
        return sum(turn.done() for turn in turns)

    while not gone():
        await asyncio.sleep(0.001)
    assert gone() == TOGETHER
    await asyncio.gather(*turns)
    await fleet.pacers[0].aclose()


async def test_a_denial_holds_while_redis_is_away(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacer, "_gap_s", lambda _quotas: 0.01)
    fleet = Fleet(redis, polls="1/min")
    await fleet.poll()

    async def nap(_seconds: float) -> None:
        fails(monkeypatch, fleet, "acquire")

    monkeypatch.setattr(fleet.naps[0], "nap", nap)
    clock, looks = fleet.naps[0].clock, 0

    def looking() -> float:
        nonlocal looks
        looks += 1
        return clock()

    fleet.naps[0].clock = looking
    poll = asyncio.create_task(fleet.poll())

    async def looked_often() -> bool:
        return looks > 10

    await eventually(looked_often)
    assert not poll.done()
    fleet.clock.now_us += 61_000_000
    await asyncio.wait_for(poll, 5)
    await fleet.pacers[0].aclose()


@pytest.mark.parametrize("report", ["retime", "give_back"])
async def test_a_report_of_polls_that_waits_for_redis_holds_up_no_poll(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, report: str
) -> None:
    monkeypatch.setattr(pacer, "_gap_s", lambda _quotas: 0.01)
    fleet = Fleet(redis, polls="1000/10s")
    turn = asyncio.create_task(fleet.pacers[0].turn(fleet.route))
    later: Callable[[], Turn] = (await asyncio.wait([turn]))[0].pop().result
    fails(monkeypatch, fleet, report)
    if report == "retime":
        fleet.clock.now_us += 200_000
        later().left()
    else:
        later().left.args[0].cancel()  # type: ignore[attr-defined]  # as a cancelled run does
    await asyncio.wait_for(fleet.poll(), 5)
    await fleet.pacers[0].aclose()


async def test_a_late_slot_that_redis_cannot_count_anew_fails_no_poll(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(redis, polls="1000/10s")
    acquire, retime = fleet.limiters[0].acquire, fleet.limiters[0].retime
    fails_once = [True]

    async def slowly(*args: Any, **more: Any) -> Any:
        answer = await acquire(*args, **more)
        fleet.clock.now_us += 200_000 if fails_once else 0
        return answer

    async def away_once(*args: Any, **more: Any) -> bool:
        if fails_once:
            fails_once.clear()
            raise AWAY
        return await retime(*args, **more)

    monkeypatch.setattr(fleet.limiters[0], "acquire", slowly)
    monkeypatch.setattr(fleet.limiters[0], "retime", away_once)
    await asyncio.wait_for(fleet.poll(), 5)
    assert not fails_once
