"""The memory for large answers: a budget, in the order of arrival, that a stuck holder cannot block for ever."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from daemon.worker.memory import AnswerMemory


def run() -> Any:
    return SimpleNamespace(answer_bytes=0, item=SimpleNamespace(uid="default//a"))


async def begun(memory: AnswerMemory, holder: Any, size: int) -> asyncio.Task[None]:
    """A `take` that has come as far as it can."""
    task = asyncio.create_task(memory.take(holder, size))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_answers_beyond_the_budget_wait_for_a_release_in_their_order() -> None:
    memory, runs = AnswerMemory(100, stuck_s=60), [run() for _ in range(4)]
    first, large, third, fourth = [
        await begun(memory, *each) for each in zip(runs, (60, 90, 30, 10), strict=True)
    ]
    assert [task.done() for task in (first, large, third, fourth)] == [True, False, False, False]
    memory.release(runs[0])
    await large
    assert not third.done()
    memory.release(runs[1])
    await asyncio.gather(third, fourth)
    assert [each.answer_bytes for each in runs] == [0, 0, 30, 10]


async def test_an_answer_larger_than_the_budget_takes_all_of_it() -> None:
    memory, holder = AnswerMemory(100), run()
    await memory.take(holder, 1000)
    memory.release(holder)
    await memory.take(holder, 100)


async def test_a_paid_answer_is_read_although_nothing_is_released() -> None:
    memory = AnswerMemory(100, stuck_s=0.02)
    await memory.take(run(), 100)
    async with asyncio.timeout(10):
        await memory.take(late := run(), 50)
    assert late.answer_bytes == 50


async def test_a_run_that_is_cancelled_while_it_waits_holds_nothing() -> None:
    memory, holder, late = AnswerMemory(100, stuck_s=60), run(), run()
    await memory.take(holder, 100)
    waiting = await begun(memory, late, 50)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    memory.release(late)
    memory.release(holder)
    await memory.take(run(), 100)
