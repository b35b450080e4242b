"""The cut between what is past and what is live: each event once, in order, however reads and writes interleave."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.gateway.events import replay
from daemon.gateway.events.frames import START, Position, Topic, text_of
from daemon.gateway.events.hub import EventHub
from daemon.gateway.events.stream import EventStream, Listening
from daemon.telemetry.http_metrics import HttpMetrics
from daemon.telemetry.metrics import ProcessMetrics
from tests.daemon.gateway.events.sse import KEYS

OURS, OTHERS = Topic("one", "b1"), Topic("two", "b1")
LONG = 500  # turns in which a listener hears what there is


class World:
    """Two streams that grow, and a hub that reads one of them, both between any two steps of a listener."""

    def __init__(self, choices: list[int]) -> None:
        self._choices = iter(choices)
        self._clock = 1
        self.everything: list[tuple[Position, Topic]] = []
        self.own: list[tuple[Position, Topic]] = []
        self.hub = EventHub(self, self, KEYS, HttpMetrics(ProcessMetrics().registry))  # type: ignore[arg-type]
        self.hub.position = START

    def choose(self, ends: int) -> int:
        """One of the numbers below `ends`."""
        return next(self._choices, 0) % ends

    def add(self, topic: Topic, *, later: bool = True) -> None:
        """An event; if not `later`, it is of the same millisecond as the one before it."""
        self._clock += later
        last = self.everything[-1][0] if self.everything else START
        ident = (self._clock, last[1] + 1 if last[0] == self._clock else 0)
        self.everything.append((ident, topic))
        if topic.batch == "b1":
            self.own.append((ident, topic))

    async def goes_on(self) -> None:
        """Some events happen, and the hub reads some of what is there."""
        for _ in range(self.choose(4)):
            topic = (OURS, OURS, OTHERS, Topic("one", "b2"))[self.choose(4)]
            self.add(topic, later=bool(self.choose(2)))
        if self.choose(2):
            await self.read()

    async def read(self) -> None:
        await self.hub._read(self.hub.position or START)

    # The calls of the hub and the listener on Redis.

    async def xinfo_stream(self, _: str) -> dict[str, Any]:
        await self.goes_on()
        own = self.own
        return {
            "last-generated-id": text_of(own[-1][0]) if own else "0-1",
            "first-entry": _entry(*own[0]) if own else None,
            "length": len(own),
            "entries-added": len(own),
        }

    async def xrange(self, _: str, after: str, __: str, count: int) -> list[Any]:
        await self.goes_on()
        known = _pair(after[1:])
        page = [_entry(*each) for each in self.own if each[0] > known][:count]
        await self.goes_on()
        return page

    async def xrevrange(self, *_: Any, **__: Any) -> list[Any]:
        return [_entry(*each) for each in self.everything[-1:]]

    async def xread(self, streams: dict[str, str], count: int, block: int) -> list[Any]:
        assert block
        known = _pair(streams[KEYS.events])
        size = 1 + self.choose(count)
        return [[KEYS.events, [_entry(*each) for each in self.everything if each[0] > known][:size]]]


def _pair(text: str) -> Position:
    first, second = text.split("-")
    return int(first), int(second)


def _entry(ident: Position, topic: Topic) -> tuple[bytes, dict[bytes, bytes]]:
    data = f'{{"tenant":"{topic.tenant}","batch":"{topic.batch}"}}'
    return text_of(ident).encode(), {b"type": b"batch.progress", b"data": data.encode()}


async def heard(world: World) -> tuple[Position, list[Position]]:
    """The position from which a listener listened, and the ids that it got."""
    for _ in range(2):
        await world.goes_on()
    ids = [START, *(ident for ident, _ in world.everything)]
    known = ids[world.choose(len(ids))]
    got: list[bytes] = []

    def write(frames: bytes) -> bool:
        """As a server: sometimes a client is too slow for what is sent at once."""
        if world.choose(3) == 2:
            return False
        got.append(frames)
        return True

    async def listen() -> None:
        stream = EventStream(world.hub, Listening(OURS, KEYS.batch_events("b1"), known))
        stream.write_by(write)
        async for frames in stream.frames():
            got.append(frames)  # noqa: PERF401 - they are looked at while they come

    listening = asyncio.create_task(listen())
    for _ in range(world.choose(8)):
        for _ in range(world.choose(4)):
            await asyncio.sleep(0)
        await world.goes_on()
    world.add(OURS)
    for _ in range(LONG):
        await world.read()
        await asyncio.sleep(0)
        if listening.done() or _ids(got)[-1:] == [world.own[-1][0]]:
            break
    listening.cancel()
    await asyncio.wait([listening])
    return known, _ids(got)


@given(st.lists(st.integers(0, 11), max_size=100))
@settings(max_examples=300)
def test_every_event_is_heard_once_and_in_order(choices: list[int]) -> None:
    world = World(choices)
    with mock.patch.object(replay, "PAGE", 2):
        known, got = asyncio.run(heard(world))
    assert got == [ident for ident, topic in world.own if topic == OURS and ident > known]


def _ids(frames: list[bytes]) -> list[Position]:
    return [_pair(line[4:]) for line in b"".join(frames).decode().split("\n") if line.startswith("id: ")]
