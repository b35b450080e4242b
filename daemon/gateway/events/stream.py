"""The frames of one listener: what is past, then what happens, with no gap and no event twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from daemon.gateway.events.frames import END, START, Burst, Position, Topic, first_line, position_of, resync
from daemon.gateway.events.hub import EventHub
from daemon.gateway.events.listener import Listener
from daemon.gateway.events.replay import Page, has_lost, read_page, state_of
from daemon.gateway.events.response import Write
from pixmill.broker.backoff import pause_s
from pixmill.broker.errors import passes
from pixmill.broker.streams import tail

T = TypeVar("T")

LONGEST_PAUSE_S = 1.0  # between two tries to read what is past


@dataclass(frozen=True, slots=True)
class Ending:
    """When a stream ends: at an event of `kinds`, if `has_ended` then is true by the record.

    `is_sure`: such an event is the end, and no record needs to be read.
    """

    kinds: frozenset[str]
    is_sure: bool
    has_ended: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Listening:
    """The events that a listener gets.

    `after` is the position that it knows, None for live events alone. The past is in `stream`, up to `until` if the
    work had ended (`has_ended`). If entries up to `must_have` are gone, the listener has lost some.
    """

    topic: Topic
    stream: str
    after: Position | None
    must_have: Position = START
    ending: Ending | None = None
    has_ended: bool = False
    until: Position | None = None


class EventStream:
    """Frames for one listener, from `frames`. While Redis is away it waits, and goes on without loss."""

    def __init__(self, hub: EventHub, listening: Listening) -> None:
        self._hub = hub
        self._listening = listening
        self._position = listening.after or START  # every event up to this one was sent, or is not wanted
        self._ends = listening.ending
        self._may_end = (
            False  # an event that may be the last one was sent, and the record has not been read since
        )
        self._has_ended = False
        self._write: Write | None = None

    def write_by(self, write: Write) -> None:
        """Let `write` send what happens while the listener has all that came before; the rest comes from `frames`."""
        self._write = write

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Some whole frames at a time, until the work ends or the gateway stops."""
        with self._hub.listen(self._listening.topic) as listener:
            yield first_line()
            if self._listening.after is None:
                self._position = self._hub.position or START
            else:
                if await self._answer(listener, self._is_unknown):
                    listener.lose(self._hub.position or START)
                    yield self._resync(listener)
                async for past in self._past(listener, is_first=True):
                    yield past
            while not (listener.closed or self._has_ended):
                if frames := await self._next(listener):
                    yield frames
                if self._may_end and not self._has_ended:
                    async for past in self._past(listener, is_first=False):
                        yield past
                self._may_end = False
            if self._has_ended:
                yield END

    async def _past(self, listener: Listener, *, is_first: bool) -> AsyncGenerator[bytes, None]:
        """The frames that follow the position, up to the stream's end; from there on the listener has had all events.

        The listener begins anew before each read. So it has every event that came after the read, and what the last
        page has as well is not sent again. If it overflows meanwhile, its events are read from Redis.
        The first time, the record says whether the work has ended; later an event that may be its last one was sent.
        """
        until, knew_end = (self._listening.until, self._listening.has_ended) if is_first else (None, False)
        saw_end = not is_first
        while not listener.closed:
            if listener.lost_at is not None and listener.lost_at < self._position:  # by Redis itself
                yield self._resync(listener)
            listener.restart()
            page = await self._answer(listener, partial(self._page, until))
            if page is None:
                return
            self._position = page.position
            if page.events:
                yield b"".join([event.frame for event in page.events])
                kinds = self._ends.kinds if self._ends is not None else frozenset()
                saw_end = saw_end or any(event.kind in kinds for event in page.events)
            if not page.is_last or listener.lost_at is not None:
                continue
            # The record may be newer than the page, so what it ended with is in the next one.
            if (saw_end or knew_end) and await self._is_over(listener):
                self._has_ended = knew_end
                if knew_end:
                    return
                knew_end = True
            elif until is None:
                return
            else:
                until = None  # it has begun again since its record was read
            saw_end = False

    async def _next(self, listener: Listener) -> bytes:
        """The next frames, once they come; nothing when the gateway stops."""
        events = await listener.take(self._written if self._write is not None else None)
        parts: list[bytes] = []
        if listener.lost_at is not None:
            parts.append(self._resync(listener))
            self._may_end = self._ends is not None
        for event in events:
            if event.id > self._position:
                self._position = event.id
                parts.append(event.frame)
                if self._ends is not None and event.kind in self._ends.kinds:
                    self._may_end = True
                    self._has_ended = self._ends.is_sure
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _written(self, burst: Burst) -> bool:
        """Whether the frames were sent at once; events of the last page, and one that may be the end, are not."""
        is_end = self._ends is not None and not self._ends.kinds.isdisjoint(burst.kinds)
        if (
            is_end
            or burst.events[0].id <= self._position
            or self._write is None
            or not self._write(burst.frames)
        ):
            return False
        self._position = burst.events[-1].id
        return True

    async def _is_unknown(self) -> bool:
        """Whether events that are wanted are lost, or the position itself is of a stream that was lost."""
        client, keys = self._hub.client, self._hub.keys
        state = await state_of(client, self._listening.stream)
        if state.last == START or has_lost(state, self._listening.must_have):
            return True
        if self._position <= (self._hub.position or START):
            return False
        return self._position > position_of(await tail(client, keys.events))

    async def _page(self, until: Position | None) -> Page:
        return await read_page(
            self._hub.client, self._listening.stream, self._listening.topic, self._position, until
        )

    def _resync(self, listener: Listener) -> bytes:
        self._position, listener.lost_at = listener.lost_at or START, None
        self._hub.count_resync()
        return resync(self._position)

    async def _is_over(self, listener: Listener) -> bool:
        ending = self._ends
        return ending is not None and bool(await self._answer(listener, ending.has_ended))

    async def _answer(self, listener: Listener, read: Callable[[], Awaitable[T]]) -> T | None:
        """The answer of Redis, however long it takes; None when the gateway stops."""
        failures = 0
        while not listener.closed:
            try:
                async with self._hub.reads:
                    return await read()
            except Exception as error:
                if not passes(error):
                    raise
            await listener.pause(pause_s(failures, LONGEST_PAUSE_S))
            failures += 1
        return None
