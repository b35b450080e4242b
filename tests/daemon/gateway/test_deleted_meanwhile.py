"""A deletion in the middle of an acceptance: what comes later begins nothing anew."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.maintenance.resumer import Resumer
from tests.daemon.gateway.rig import Door, refusal
from tests.daemon.gateway.test_batches import LINES, batch, lines

BODY = lines({"id": "b1"}, *batch("b1", 2100)["items"])


async def delete(door: Door) -> None:
    assert (await door.http.post("/v1/batches/b1/cancel", json={})).status_code == 202
    assert (await door.http.delete("/v1/batches/b1")).status_code == 204


async def test_a_batch_deleted_between_its_parts_does_not_begin_again(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor, real = quiet_door.gateway.acceptor, quiet_door.gateway.acceptor.part

    async def part(given: Any, **more: Any) -> Any:
        if given.batch.part == 3:
            await delete(quiet_door)
        return await real(given, **more)

    monkeypatch.setattr(acceptor, "part", part)
    answer = await quiet_door.http.post("/v1/batches", content=BODY, headers=LINES)
    assert refusal(answer) == (410, "expired", None)
    assert (await quiet_door.http.get("/v1/batches/b1")).status_code == 404
    assert await quiet_door.installation.redis.keys("pixmill:accepting*") == []


async def test_a_replica_does_not_begin_a_deleted_batch_again(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, real = quiet_door.installation, quiet_door.gateway.acceptor.part

    async def part(given: Any, **more: Any) -> Any:
        if given.batch.part == 3:
            raise ConnectionError("it is killed here")
        return await real(given, **more)

    monkeypatch.setattr(quiet_door.gateway.acceptor, "part", part)
    assert (await quiet_door.http.post("/v1/batches", content=BODY, headers=LINES)).status_code == 503
    resumer = Resumer(installation.redis, installation.keys.prefix, installation.acceptor)
    stranded = await resumer.take(0)
    assert [name for name, *_ in stranded] == ["default/b1/3"]
    await delete(quiet_door)

    async def taken(_: float) -> Any:
        return stranded

    monkeypatch.setattr(resumer, "take", taken)
    await resumer.resume(0)
    assert (await quiet_door.http.get("/v1/batches/b1")).status_code == 404
    assert await installation.redis.keys("pixmill:accepting*") == []
