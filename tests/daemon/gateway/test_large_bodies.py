"""A large body is read and checked beside the loop, so other requests do not wait for it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.gateway.batches import drafts
from daemon.gateway.compat import slides
from daemon.gateway.requests import bodies
from daemon.intake.acceptance import Acceptor
from tests.daemon.gateway.compat.decks import DECK, STUDIO
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.gateway.test_batches import batch
from tests.servers import RedisServer

LONG = "x" * 100_000


@pytest.fixture
async def quiet_door(redis: Redis, redis_server: RedisServer) -> AsyncIterator[Door]:
    routes = ("default", "slides", "studio")
    async with open_door(redis, redis_server.url, decide=None, routes=routes) as opened:
        yield opened


@pytest.fixture
def in_loop(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that the thread of the loop took; each of them is long for a large body."""
    steps: list[str] = []

    def watch(owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def step(*given: Any, **named: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                steps.append(name)
            return real(*given, **named)

        monkeypatch.setattr(owner, name, step)

    watch(bodies, "parse_object")
    watch(drafts, "parse_object")
    watch(drafts, "place_of")
    watch(slides, "slide_batch")
    watch(Acceptor, "prepared")
    return steps


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/batches", batch("b1", 3, metadata={"a": "b"}), 202),
        ("/v1/batches", batch("b1", 3, items=[{"id": "a", "prompt": 1}]), 422),
        ("/v1/images/generations", {"prompt": LONG, "model": "default"}, 400),
        ("/api/slide/batch/generate", {**DECK, "x": LONG}, 202),
        ("/api/image-studio/jobs", {**STUDIO, "x": LONG}, 202),
    ],
)
async def test_a_large_body_is_read_beside_the_loop(
    quiet_door: Door, in_loop: list[str], path: str, body: dict[str, Any], status: int
) -> None:
    answer = await quiet_door.http.post(path, json=body, headers={"Prefer": "wait=0"})
    assert (answer.status_code, in_loop) == (status, [])


async def test_a_small_body_needs_no_thread(quiet_door: Door, in_loop: list[str]) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "a", "prompt": "x"})
    assert in_loop == ["parse_object"]
