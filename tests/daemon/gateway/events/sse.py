"""A listener for tests: it reads frames, remembers each, and can leave and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx2
import orjson
from redis.asyncio import Redis

from daemon.gateway.events.frames import position_of
from daemon.gateway.events.hub import EventHub
from daemon.queue.outcomes import Succeeded
from daemon.queue.steps import Steps
from pixmill.broker.streams import tail
from pixmill.records.keys import Keys
from tests.daemon.gateway.rig import Door
from tests.daemon.harness import eventually

KEYS = Keys("pixmill")
BATCH = "/v1/batches/b1/events"
DONE = Succeeded({"images": []})


class Frame(NamedTuple):
    """One frame; a field that it lacks is empty."""

    id: str
    event: str
    data: Any


@dataclass
class Heard:
    """The events that one listener has heard. `closed`: the other side has ended the stream."""

    headers: httpx2.Headers
    frames: list[Frame] = field(default_factory=list)
    retry_ms: int = 0
    pings: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ids(self) -> list[str]:
        """The ids of all events, without `resync` and `end`."""
        return [frame.id for frame in self.frames if frame.event not in ("resync", "end")]

    @property
    def kinds(self) -> list[str]:
        return [frame.event for frame in self.frames]

    async def until(self, count: int) -> None:
        """Until so many events were heard."""

        async def enough() -> bool:
            return len(self.ids) >= count

        await eventually(enough, 30)

    async def until_kind(self, kind: str) -> None:
        async def heard() -> bool:
            return kind in self.kinds

        await eventually(heard, 30)

    def _line(self, line: str, fields: dict[str, str]) -> None:
        name, _, value = line.partition(": ")
        if name == "retry":
            self.retry_ms = int(value)
        elif line == ": ping":
            self.pings += 1
        elif line:
            fields[name] = value
        elif fields:
            data = orjson.loads(fields.get("data", "null"))
            self.frames.append(Frame(fields.get("id", ""), fields.get("event", ""), data))
            fields.clear()


@asynccontextmanager
async def listening(
    http: httpx2.AsyncClient, path: str, last: str | None = None, **headers: str
) -> AsyncIterator[Heard]:
    """Listen while this is open."""
    given = {**headers, **({"Last-Event-ID": last} if last else {})}
    async with http.stream("GET", path, headers=given, timeout=60) as response:
        assert response.status_code == 200, await response.aread()
        heard = Heard(response.headers)
        task = asyncio.create_task(_read(response, heard))
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.wait([task])


async def _read(response: httpx2.Response, heard: Heard) -> None:
    fields: dict[str, str] = {}
    with suppress(httpx2.TransportError):
        async for line in response.aiter_lines():
            heard._line(line, fields)
    heard.closed.set()


async def publish(
    redis: Redis, batch: str, first: int, count: int, tenant: str = "default", pad: int = 0
) -> None:
    """Events of a batch's progress with the numbers from `first` on, each with a text of `pad` characters."""
    head = orjson.dumps({"tenant": tenant, "job": batch, "item": batch, "batch": batch}).decode()[1:-1]
    steps = Steps(redis, KEYS.prefix)
    named = {"event": "batch.progress", "tenant": tenant, "batch": batch, "head": head}
    for number in range(first, first + count):
        await steps("publish", f'"number":{number},"pad":"{"x" * pad}"', **named)


async def caught_up(hub: EventHub, redis: Redis) -> None:
    """Until the hub has given out every event; while nobody listens, it reads a little later."""

    async def all_read() -> bool:
        return hub.position == position_of(await tail(redis, KEYS.events))

    await eventually(all_read)


async def ids_of(redis: Redis, batch: str, tenant: str = "default") -> list[str]:
    """The ids of all events of a tenant's batch, from the stream of all events."""
    rows: Any = await redis.xrange(KEYS.events)
    events = [(entry.decode(), orjson.loads(fields[b"data"])) for entry, fields in rows]
    return [entry for entry, data in events if (data.get("tenant"), data.get("batch")) == (tenant, batch)]


async def finish(door: Door) -> None:
    """End every item that waits."""
    while items := await door.installation.claim(20):
        for item in items:
            await door.installation.queue.settle(item, DONE)


def listeners(door: Door) -> float | None:
    return door.gateway.metrics.registry.get_sample_value("pixmill_http_listeners")


def resyncs(door: Door) -> float | None:
    return door.gateway.metrics.registry.get_sample_value("pixmill_http_resyncs_total")
