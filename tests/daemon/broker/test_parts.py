"""Parts of a process: the order in which they start and stop, and stops at any moment."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from daemon.broker import parts as parts_module
from daemon.broker.parts import Part, Parts


class Stage:
    """Makes parts that record their events."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def part(self, name: str, *, deaf: int = 0) -> Part:
        """A part that swallows its first `deaf` cancellations."""

        async def run() -> None:
            nonlocal deaf
            self.noted.append(f"{name} runs")
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if not deaf:
                        self.noted.append(f"{name} ends")
                        raise
                    deaf -= 1

        async def finish() -> None:
            self.noted.append(f"{name} finishes")

        return Part(name, run, finish)

    def end(self, name: str) -> Part:
        """A part that only has a `finish`."""

        async def finish() -> None:
            self.noted.append(f"{name} finishes")

        return Part(name, None, finish)


def now() -> asyncio.Event:
    """Parts may run at once."""
    ready = asyncio.Event()
    ready.set()
    return ready


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_parts_start_in_order_and_stop_in_reverse(stage: Stage) -> None:
    parts = Parts([[stage.part("a")], [stage.end("b")], [stage.part("c"), stage.part("d")]], now())
    parts.start()
    await asyncio.sleep(0)
    assert stage.noted == ["a runs", "c runs", "d runs"]
    stage.noted.clear()
    await parts.stop()
    assert set(stage.noted[:4]) == {"c finishes", "c ends", "d finishes", "d ends"}
    assert stage.noted[4:] == ["b finishes", "a finishes", "a ends"]


async def test_a_stop_needs_no_start_and_may_be_repeated(stage: Stage) -> None:
    parts = Parts([[stage.part("a")], [stage.end("b")]], now())
    await parts.stop()
    await parts.stop()
    assert stage.noted == ["b finishes", "a finishes"]


async def test_a_part_that_has_failed_holds_up_no_stop(stage: Stage) -> None:
    async def fails() -> None:
        raise RuntimeError("a bug")

    parts = Parts([[stage.part("a")], [Part("broken", fails)]], now())
    parts.start()
    await asyncio.sleep(0)
    await parts.stop()
    assert stage.noted[-1] == "a ends"


async def test_a_swallowed_cancellation_is_repeated(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "CANCEL_AGAIN_S", 0.01)
    parts = Parts([[stage.part("a", deaf=2)]], now())
    parts.start()
    await asyncio.sleep(0)
    await parts.stop()
    assert stage.noted[-1] == "a ends"


async def test_parts_wait_until_ready_except_those_at_once(stage: Stage) -> None:
    ready = asyncio.Event()
    parts = Parts([[stage.part("a"), replace(stage.part("b"), at_once=True)]], ready)
    parts.start()
    await asyncio.sleep(0)
    assert stage.noted == ["b runs"]
    ready.set()
    await asyncio.sleep(0)
    assert stage.noted == ["b runs", "a runs"]
    await parts.stop()


async def test_a_part_that_might_not_run_has_nothing_to_finish(stage: Stage) -> None:
    parts = Parts([[stage.part("a")]], asyncio.Event())
    parts.start()
    await asyncio.sleep(0)
    await parts.stop()
    assert stage.noted == []


async def test_a_stop_waits_for_every_part_of_a_stage(stage: Stage) -> None:
    may_end = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            stage.noted.append("slow ends")

    parts = Parts([[stage.end("drain")], [stage.part("quick"), Part("slow", slow)]], now())
    parts.start()
    await asyncio.sleep(0)
    stopping = asyncio.create_task(parts.stop())
    while "quick ends" not in stage.noted:
        await asyncio.sleep(0)
    assert "drain finishes" not in stage.noted
    may_end.set()
    await stopping
    assert stage.noted[-2:] == ["slow ends", "drain finishes"]


async def test_a_part_that_fails_to_finish_stops_all_the_same(stage: Stage) -> None:
    async def fails() -> None:
        raise RuntimeError("a bug")

    parts = Parts([[stage.part("a")], [replace(stage.part("b"), finish=fails)]], now())
    parts.start()
    await asyncio.sleep(0)
    await parts.stop()
    assert stage.noted[-3:] == ["b ends", "a finishes", "a ends"]
