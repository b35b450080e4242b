"""Calls that come at the same time share a round trip, and each gets its own result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from daemon.queue.steps import GroupCommit

LATE_S = 0.01


class Wire:
    """Doubles numbers. A round that has a number of `stuck` ends only when it is let go; one that has -1 fails."""

    def __init__(self, *stuck: int) -> None:
        self.rounds: list[list[int]] = []
        self.go = asyncio.Event()
        self._stuck = set(stuck)

    async def send(self, numbers: Sequence[int]) -> list[int]:
        self.rounds.append(list(numbers))
        if self._stuck & set(numbers):
            await self.go.wait()
        await asyncio.sleep(0)
        if -1 in numbers:
            raise ConnectionError("lost")
        return [2 * number for number in numbers]


async def until(wire: Wire, rounds: int) -> None:
    while len(wire.rounds) < rounds:
        await asyncio.sleep(0)


async def test_calls_while_a_round_is_on_the_wire_share_the_next_one() -> None:
    wire = Wire(1)
    commit = GroupCommit(wire.send)
    first = asyncio.create_task(commit.submit(1))
    await until(wire, 1)
    others = [asyncio.create_task(commit.submit(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    assert wire.rounds == [[1]]
    wire.go.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert wire.rounds == [[1], [2, 3, 4]]


async def test_a_round_has_no_more_than_its_most() -> None:
    wire = Wire()
    commit = GroupCommit(wire.send, most=2)
    assert await asyncio.gather(*(commit.submit(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert wire.rounds == [[0, 1], [2, 3], [4]]


async def test_an_error_reaches_the_callers_of_its_round_alone() -> None:
    wire = Wire()
    commit = GroupCommit(wire.send, most=2)
    results = await asyncio.gather(*(commit.submit(number) for number in (1, -1, 2)), return_exceptions=True)
    assert [type(each) for each in results] == [ConnectionError, ConnectionError, int]
    assert await commit.submit(7) == 14, "the next call works again"


async def test_a_late_round_delays_no_later_call() -> None:
    wire = Wire(1)
    commit = GroupCommit(wire.send, late_s=LATE_S)
    first = asyncio.create_task(commit.submit(1))
    await until(wire, 1)
    async with asyncio.timeout(10):
        assert await commit.submit(2) == 4, "it is answered while the first one is still on the wire"
    assert not first.done()
    wire.go.set()
    assert await first == 2


@pytest.mark.parametrize("late_s", [None, LATE_S])
async def test_a_caller_that_leaves_takes_nobody_with_it(late_s: float | None) -> None:
    wire = Wire(1)
    commit = GroupCommit(wire.send, late_s=late_s)
    leaver, stayer = (asyncio.create_task(commit.submit(number)) for number in (1, 2))
    await until(wire, 1)
    leaver.cancel()
    wire.go.set()
    assert await stayer == 4
    assert leaver.cancelled()
