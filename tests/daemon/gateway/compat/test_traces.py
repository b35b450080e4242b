"""Work that comes by HTTP goes on with the trace of its request, at each door."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.daemon.gateway.compat.decks import DECK, STUDIO, Room
from tests.daemon.gateway.rig import Door

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
JOB = {"id": "a", "prompt": "x"}
DOORS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/jobs", JOB),
    ("/v1/jobs", {**JOB, "n": 2}),
    ("/v1/batches", {"id": "b1", "items": [JOB]}),
    ("/v1/images/generations", {"prompt": "x", "model": "default"}),
    ("/api/slide/batch/generate", DECK),
    ("/api/image-studio/jobs", STUDIO),
]


async def traces(redis: Any, uids: str = "*") -> list[object]:
    """What each record of an item keeps of its request."""
    heads = [await redis.hget(key.decode(), "head") for key in await redis.keys(f"pixmill:item:{uids}")]
    return [orjson.loads(b"{" + head + b"}").get("cloudevent") for head in heads]


@pytest.mark.parametrize(
    ("path", "body"), DOORS, ids=["job", "pictures", "batch", "openai", "slides", "studio"]
)
async def test_a_caller_sends_its_trace_along(
    door: Door, room: Room, redis: Any, path: str, body: dict[str, Any]
) -> None:
    room.go_on.set()
    reply = await door.http.post(path, json=body, headers={"traceparent": TRACEPARENT})
    # The pictures of this worker are in no store, so the door that sends them answers 502 in the end.
    assert reply.status_code in (200, 202, 502), reply.text
    kept = await traces(redis)
    assert kept
    assert kept == [{"traceparent": TRACEPARENT}] * len(kept)
    # The next request on the connection has a trace of its own, or none.
    for name, header in (("c1", {}), ("c2", {"traceparent": "nonsense"})):
        assert (await door.http.post("/v1/jobs", json={**JOB, "id": name}, headers=header)).is_success
    assert await traces(redis, "default//c?") == [None, None]
