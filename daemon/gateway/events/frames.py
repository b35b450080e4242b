"""Events as listeners get them: frames of `text/event-stream`, each encoded once for all of its listeners."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson

# The id of a stream's entry: milliseconds, and a number within that one. Ids compare as these pairs.
Position = tuple[int, int]
START: Position = (0, 0)

_LONGEST_NUMBER = 20  # digits; more than any id has
_MOST = 2**64 - 1

PING = b": ping\n\n"
END = b"event: end\ndata: {}\n\n"
_RETRY_MS = (
    2500,
    4500,
)  # drawn for each listener, so that those of a gateway that ends do not come back together


class Topic(NamedTuple):
    """The work of a listener: a batch, a job (with an empty batch), an item of a batch, or all that a tenant has."""

    tenant: str
    batch: str = ""
    job: str = ""


class Event(NamedTuple):
    """One event of the stream. `topics` are those of its listeners; none: it concerns all tenants."""

    id: Position
    kind: str
    topics: tuple[Topic, ...]
    frame: bytes

    def concerns(self, topic: Topic) -> bool:
        """Whether a listener of `topic` hears of it. A listener of a whole tenant also hears of quotas and routes."""
        return topic in self.topics or (not self.topics and not (topic.batch or topic.job))


class Burst:
    """Events of one topic that came in one read, in their order: at least one. Listeners share what is made of it."""

    __slots__ = ("events", "frames", "kinds")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.kinds = frozenset(event.kind for event in events)
        self.frames = b"".join([event.frame for event in events])


def event_of(entry: str, fields: Mapping[bytes, bytes]) -> Event | None:
    """The event of a stream's entry; None for an entry that is not one of ours."""
    kind, data = fields.get(b"type", b""), fields.get(b"data", b"")
    try:
        name, body = kind.decode(), orjson.loads(data)
    except ValueError:
        return None
    if not isinstance(body, dict) or not name or "\n" in name or "\r" in name:
        return None
    # A line break outside of a text, which only others write, would end the frame.
    if _with_our_addresses(body) or b"\n" in data or b"\r" in data:
        data = orjson.dumps(body)
    frame = b"id: %b\nevent: %b\ndata: %b\n\n" % (entry.encode(), kind, data)
    return Event(position_of(entry), name, _topics(kind, body), frame)


def _with_our_addresses(body: dict[str, object]) -> bool:
    """Let pictures lead to this gateway, below its root, instead of the store; returns whether there are any."""
    images, job, item, batch = (body.get(name) for name in ("images", "job", "item", "batch"))
    if not isinstance(images, list) or not isinstance(job, str) or not isinstance(item, str):
        return False
    base = f"/v1/batches/{batch}/items/{item}" if batch else f"/v1/jobs/{job}"
    # Picture k of a job of several is an item of its own, and its one picture is the job's picture k.
    first = item.rpartition(".")[2] if not batch and item != job else "0"
    for k, image in enumerate(images):
        if isinstance(image, dict):
            address = f"{base}/images/{first if len(images) == 1 else k}"
            image["url"] = address
            image["thumb_url"] = f"{address}?thumb=1"
    return bool(images)


def _topics(kind: bytes, body: Mapping[str, object]) -> tuple[Topic, ...]:
    tenant = body.get("tenant")
    if not isinstance(tenant, str):
        return ()
    topics = [Topic(tenant)]
    batch = body.get("batch") or ""
    if isinstance(batch, str) and batch:
        topics.append(Topic(tenant, batch))
    if kind.startswith(b"job.") and isinstance(batch, str):
        # Picture k of several is an item with a name of its own.
        names = {name for name in (body.get("job"), body.get("item")) if isinstance(name, str) and name}
        topics += [Topic(tenant, batch, name) for name in names]
    return tuple(topics)


def position_of(text: str) -> Position:
    """The position that an id names; a missing second number is 0. Raises ValueError for anything else."""
    milliseconds, dash, number = text.partition("-")
    return _number(milliseconds), _number(number) if dash else 0


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER and int(text) <= _MOST):
        raise ValueError("An id is a number, or two numbers with a dash between them.")
    return int(text)


def text_of(position: Position) -> str:
    """The id of a position."""
    return f"{position[0]}-{position[1]}"


def frame_of(event: str, data: object) -> bytes:
    """A frame without a position in a stream."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(data))


def first_line() -> bytes:
    """The first line of a stream: after how many milliseconds a listener that was cut off comes back."""
    return b"retry: %d\n\n" % random.randint(*_RETRY_MS)  # noqa: S311 - jitter, no secret


def resync(position: Position) -> bytes:
    """The frame for a listener that has lost events: it reads everything again, and what it reads next follows."""
    ident = text_of(position).encode()
    return b'id: %b\nevent: resync\ndata: {"after":"%b"}\n\n' % (ident, ident)
