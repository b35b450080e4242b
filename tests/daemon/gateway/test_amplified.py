"""A small body whose work would fill the memory, or hold up all others, is refused, and nothing is stored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from daemon.gateway.batches import drafts
from tests.daemon.gateway.rig import Door, refusal
from tests.daemon.gateway.test_batches import LINES, batch, keys, lines


async def test_a_long_head_over_many_lines_is_refused(quiet_door: Door) -> None:
    before = await keys(quiet_door)
    head = {"id": "b1", "defaults": {"prompt": "x", "params": {"style": "x" * 7000}}}
    body = lines(head, *({"id": f"i{k}"} for k in range(10_000)))
    answer = await quiet_door.http.post("/v1/batches", content=body, headers=LINES)
    assert refusal(answer) == (413, "too_large", "defaults")
    assert await keys(quiet_door) == before


async def test_long_defaults_over_many_pictures_are_refused(quiet_door: Door) -> None:
    before = await keys(quiet_door)
    body = batch("b1", 1000, defaults={"n": 10, "params": {"style": "x" * 7000}})
    answer = await quiet_door.http.post(
        "/v1/batches", content=orjson.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert refusal(answer) == (413, "too_large", "defaults")
    assert await keys(quiet_door) == before


async def test_dead_letters_are_answered_up_to_some_mebibytes(quiet_door: Door) -> None:
    for _ in range(4):
        fields: dict[Any, Any] = {"reason": "malformed", "data": "a." * 1_500_000}
        await quiet_door.installation.redis.xadd("pixmill:dead", fields)
    dead = (await quiet_door.http.get("/v1/dead?limit=1000")).json()["dead"]
    assert [len(letter["original"]["data"]) for letter in dead] == [3_000_000] * 3


async def test_a_batch_waits_for_its_turn_only_some_time(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "TURN_S", 0.01)
    body = lines({"id": "b1"}, {"id": "a", "prompt": "x"})
    async with quiet_door.gateway.batch_turn:
        answer = await quiet_door.http.post("/v1/batches", content=body, headers=LINES)
    assert (*refusal(answer), answer.headers["retry-after"]) == (503, "busy", None, "2")
    assert (await quiet_door.http.post("/v1/batches", content=body, headers=LINES)).status_code == 202
