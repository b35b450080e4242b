"""Reads events that are past, by pages, from the stream of a batch or from the stream of all events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from daemon.gateway.events.frames import START, Event, Position, Topic, event_of, position_of, text_of

PAGE = 500  # entries a read


class StreamState(NamedTuple):
    """A stream's newest id ever (START: there is no stream), its oldest entry that is left (None: none), and whether
    entries were removed."""

    last: Position
    first: Position | None
    is_trimmed: bool


async def state_of(client: Redis, stream: str) -> StreamState:
    """The state of a stream; a key of another type is none. Errors: those of the client."""
    try:
        found: Mapping[Any, Any] = await client.xinfo_stream(stream)
    except ResponseError as error:
        if "no such key" in str(error) or "WRONGTYPE" in str(error):
            return StreamState(START, None, True)
        raise
    known = {_name(name): value for name, value in found.items()}
    first = known["first-entry"]
    length = int(known["length"])
    # Redis 6.2 does not count what was ever added: there, whatever comes before the first entry may be lost.
    added = int(known.get("entries-added", length + 1))
    return StreamState(
        position_of(_name(known["last-generated-id"])),
        position_of(_name(first[0])) if first else None,
        added > length,
    )


def _name(text: bytes | str) -> str:
    return text.decode() if isinstance(text, bytes) else text


def has_lost(state: StreamState, after: Position) -> bool:
    """Whether entries that follow `after` may have been removed."""
    return state.is_trimmed and after < (state.first or state.last)


@dataclass(frozen=True, slots=True)
class Page:
    """Events of one topic, the position up to which the stream was read, and whether that was its end."""

    events: list[Event]
    position: Position
    is_last: bool


async def read_page(
    client: Redis, stream: str, topic: Topic, after: Position, until: Position | None = None
) -> Page:
    """The events of `topic` that follow `after`, up to `until`. Errors: those of the client."""
    most = "+" if until is None else text_of(until)
    try:
        rows: Any = await client.xrange(stream, f"({text_of(after)}", most, count=PAGE)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        rows = []  # the batch's id makes this somebody's key; `state_of` shows the loss
    named = (topic.job or topic.batch).encode()  # ids are ASCII, so an event without it need not be decoded
    found = [
        event_of(name.decode(), fields)
        for name, fields in rows
        if fields and named in fields.get(b"data", b"")
    ]
    return Page(
        [event for event in found if event is not None and event.concerns(topic)],
        position_of(rows[-1][0].decode()) if rows else after,
        len(rows) < PAGE,
    )
