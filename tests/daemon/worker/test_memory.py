"""The memory for answers: a budget, in the order of arrival, that a stuck holder cannot block for ever."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.worker.memory import AnswerMemory, give_large_blocks_back
from providers.http.room import holding, room_from, take_room


@dataclass(eq=False)
class Holder:
    """A run, as far as the memory knows it."""

    answer_bytes: int = 0
    item: Any = field(default_factory=lambda: SimpleNamespace(uid="default//a"))


def run() -> Any:
    return Holder()


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


async def test_the_longest_holder_goes_on_first_though_others_asked_before() -> None:
    memory, old, young = AnswerMemory(100, stuck_s=60), run(), run()
    await memory.take(old, 50)
    await memory.take(young, 50)
    growing_young = await begun(memory, young, 40)
    assert not growing_young.done()
    growing_old = await begun(memory, old, 40)
    assert growing_old.done(), "every holder waits, so nobody else would release anything"
    assert not growing_young.done()
    memory.release(old)
    await growing_young
    assert (old.answer_bytes, young.answer_bytes) == (0, 90)


async def test_readers_in_step_exceed_the_budget_by_one_answer_at_most() -> None:
    memory, peak = AnswerMemory(100, stuck_s=60), 0
    runs = [run() for _ in range(32)]

    async def read(holder: Any) -> None:
        nonlocal peak
        for _ in range(90):
            await memory.take(holder, 1)
            await asyncio.sleep(0)
            peak = max(peak, sum(each.answer_bytes for each in runs))
        memory.release(holder)

    async with asyncio.timeout(30):
        await asyncio.gather(*map(read, runs))
    assert peak <= 100 + 90
    assert [each.answer_bytes for each in runs] == [0] * 32


async def test_pixels_have_their_room_in_the_same_budget() -> None:
    memory, first, second = AnswerMemory(100, stuck_s=60), run(), run()
    with room_from(partial(memory.room_of, first), free=0):
        await take_room(60)
        async with holding(30):
            assert first.answer_bytes == 90
            waiting = await begun(memory, second, 20)
            assert not waiting.done()
        await waiting
    assert (first.answer_bytes, second.answer_bytes) == (60, 20)


async def test_a_holder_that_waits_for_pixels_larger_than_the_budget_goes_on() -> None:
    memory, holder = AnswerMemory(100, stuck_s=60), run()
    with room_from(partial(memory.room_of, holder), free=0):
        await take_room(60)
        async with asyncio.timeout(10), holding(500):
            assert holder.answer_bytes == 560
    memory.release(holder)
    await memory.take(run(), 100)


@pytest.mark.parametrize("step", [7, 50])
@given(sizes=st.lists(st.integers(1, 120), min_size=1, max_size=12))
async def test_whatever_is_read_the_budget_is_whole_again_after_it(step: int, sizes: list[int]) -> None:
    memory = AnswerMemory(100, stuck_s=60)

    async def read(size: int) -> None:
        holder = run()
        try:
            for at in range(0, size, step):
                await memory.take(holder, min(step, size - at))
                await asyncio.sleep(0)
            if size % 3 == 0:
                memory.give_back(holder, size)
        finally:
            memory.release(holder)

    readers = [asyncio.create_task(read(size)) for size in sizes]
    await asyncio.sleep(0)
    readers[0].cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(*readers, return_exceptions=True)
    await memory.take(run(), 100)


def test_a_replica_gives_large_blocks_back_where_its_c_library_can() -> None:
    AnswerMemory(100)
    assert give_large_blocks_back.cache_info().currsize == 1
    assert give_large_blocks_back() or platform.libc_ver()[0] != "glibc"
