"""Pictures as events, with signs of life in between."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest

from daemon.gateway.openai import stream
from daemon.gateway.work.finding import find_job
from tests.daemon.gateway.openai.studio import PROMPT, Studio
from tests.daemon.gateway.rig import Door
from tests.daemon.harness import eventually


async def frames(door: Door, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The events of a stream, and its signs of life as `ping`."""
    found: list[tuple[str, Any]] = []
    async with door.http.stream("POST", "/v1/images/generations", json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = (await answer.aread()).decode()
    for frame in text.split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in frame.split("\n"))
        found.append((lines["event"], orjson.loads(lines["data"])) if "event" in lines else ("ping", None))
    return found


async def test_a_stream_has_each_picture_as_an_event(shop: Door) -> None:
    events = [
        (kind, data) for kind, data in await frames(shop, {**PROMPT, "n": 2, "size": "1024x1024"}) if data
    ]
    assert [kind for kind, _ in events] == ["image_generation.completed"] * 2
    assert all(data["type"] == "image_generation.completed" for _, data in events)
    assert all(base64.b64decode(data["b64_json"]).startswith(b"picture of") for _, data in events)
    # The facts of the picture, whatever was wanted.
    assert {"size": "16x16", "output_format": "png"}.items() <= events[0][1].items()


async def test_a_stream_shows_signs_of_life(
    shop: Door, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK_S", 0.01)
    monkeypatch.setattr(stream, "PING_S", 0.02)
    body, lines = {**PROMPT, "prompt": "later", "stream": True}, list[str]()
    async with shop.http.stream("POST", "/v1/images/generations", json=body) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if lines.count(": ping") == 3:
                studio.go_on.set()
    assert "event: image_generation.completed" in lines


async def test_a_stream_outlasts_a_redis_that_is_away(
    shop: Door, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK_S", 0.01)
    monkeypatch.setattr(stream, "LOOK_AGAIN_S", 0.01)
    looks = 0

    async def sometimes(*which: Any) -> Any:
        nonlocal looks
        looks += 1
        if 2 <= looks <= 4:
            raise ConnectionError("away")
        if looks > 4:
            studio.go_on.set()
        return await find_job(*which)

    monkeypatch.setattr("daemon.gateway.openai.images.find_job", sometimes)
    assert (await frames(shop, {**PROMPT, "prompt": "later"}))[-1][0] == "image_generation.completed"
    assert looks > 4


async def test_a_stream_ends_when_redis_stays_away(shop: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr(stream, "LOOK_S", 0.01)
    monkeypatch.setattr(stream, "OUTAGE_S", 0.05)
    monkeypatch.setattr("daemon.gateway.openai.images.find_job", away)
    kind, data = (await frames(shop, PROMPT))[-1]
    assert (kind, data["error"]["code"]) == ("error", "redis_unavailable")


async def test_a_stream_ends_with_the_error_of_a_job_without_pictures(shop: Door) -> None:
    kind, data = (await frames(shop, {**PROMPT, "prompt": "bad"}))[-1]
    assert (kind, data["error"]["code"]) == ("error", "moderation_blocked")


async def test_a_stream_that_a_stop_cuts_off_names_its_job(shop: Door, studio: Studio) -> None:
    cut = asyncio.create_task(frames(shop, {**PROMPT, "prompt": "later"}))

    async def waits() -> bool:
        return len(shop.gateway.waiting) == 1

    await eventually(waits)
    await shop.gateway.end_streams()
    kind, data = (await cut)[-1]
    assert (kind, data["error"]["code"]) == ("error", "still_running"), "another send would be new work"
    task = (await shop.http.get(data["error"]["poll_url"])).json()
    assert (task["id"], task["status"]) == (data["error"]["id"], "processing")


@pytest.mark.parametrize(("count", "looks_s"), [(1, 5.0), (2, 0.5)])
async def test_a_stream_of_one_picture_waits_for_its_event(
    shop: Door, studio: Studio, monkeypatch: pytest.MonkeyPatch, count: int, looks_s: float
) -> None:
    waits, real = set[float](), shop.gateway.waiting.for_end

    async def seen(view: Any, wait_s: float, *more: Any) -> None:
        waits.add(wait_s)
        studio.go_on.set()
        await real(view, wait_s, *more)

    monkeypatch.setattr(shop.gateway.waiting, "for_end", seen)
    await frames(shop, {**PROMPT, "prompt": "later", "n": count})
    assert waits == {looks_s}
