"""Whole pictures share one budget of memory, and wait for it in turn."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.gateway.answering import memory
from daemon.gateway.answering.memory import HeldResponse, Memory
from daemon.gateway.answering.problems import Problem
from tests.daemon.gateway.openai.conftest import shop, studio
from tests.daemon.gateway.openai.studio import PROMPT, post
from tests.daemon.gateway.rig import Door

__all__ = ["shop", "studio"]


async def test_memory_is_given_in_turn() -> None:
    budget, order = Memory(10), list[str]()

    async def taker(name: str, size: int) -> None:
        async with budget.hold(size):
            order.append(name)

    first = await budget.take(6)
    waiting = [asyncio.create_task(taker(name, size)) for name, size in (("large", 90), ("small", 1))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == [], "a small one does not overtake a large one"
    first()
    first()
    await asyncio.gather(*waiting)
    assert order == ["large", "small"]
    assert budget._left == 10


async def test_a_caller_that_waits_too_long_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAIT_S", 0.01)
    budget = Memory(10)
    give_back = await budget.take(10)
    with pytest.raises(Problem) as raised:
        await budget.take(1)
    assert (raised.value.status, raised.value.code) == (503, "busy")
    give_back()
    async with budget.hold(10):
        pass


async def test_an_answer_gives_its_memory_back_when_it_is_sent_or_its_reader_goes() -> None:
    budget = Memory(10)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        assert budget._left == 0
        sent.append(message)

    async def gone(_: Any) -> None:
        raise OSError("the reader has gone")

    content = b"x" * (memory.PART_BYTES + 1)
    for to in (send, gone):
        answer = HeldResponse(content, {}, "image/png", await budget.take(10))
        try:
            await answer({}, send, to)  # type: ignore[arg-type]  # it receives nothing
        except OSError:
            assert to is gone
        assert budget._left == 10
    assert b"".join(message.get("body", b"") for message in sent) == content


@pytest.mark.parametrize("is_stream", [False, True])
async def test_pictures_wait_for_their_memory(
    shop: Door, is_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_back = await shop.gateway.memory.take(memory.MOST_BYTES)
    reads, real = 0, shop.store.get

    async def counted(key: str) -> Any:
        nonlocal reads
        reads += 1
        return await real(key)

    monkeypatch.setattr(shop.store, "get", counted)
    waiting = asyncio.create_task(post(shop, {**PROMPT, "n": 2, "stream": is_stream}))
    while not shop.gateway.memory._turn.locked():
        await asyncio.sleep(0.01)
    assert reads == 0
    give_back()
    assert (await waiting).status_code == 200
    assert (reads, shop.gateway.memory._left) == (2, memory.MOST_BYTES)


async def test_a_picture_waits_for_its_memory(shop: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = (await post(shop, {**PROMPT, "response_format": "url"})).json()["data"][0]
    give_back = await shop.gateway.memory.take(memory.MOST_BYTES)
    monkeypatch.setattr(memory, "WAIT_S", 0.01)
    assert (await shop.http.get(entry["url"])).json()["code"] == "busy"
    again = await post(shop, PROMPT)
    assert (again.status_code, again.json()["error"]["code"]) == (503, "busy")
    assert (await shop.http.get(again.headers["location"])).json()["id"] == again.json()["error"]["id"]
    give_back()
    assert (await shop.http.get(entry["url"])).status_code == 200
    assert shop.gateway.memory._left == memory.MOST_BYTES
