"""Turns events into rows of items, and names the rows that they leave in doubt.

A row in doubt has missed an event, or got one late: its record says what is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
import structlog

from daemon.gateway.events.frames import Position, position_of
from daemon.mirror.rows import BatchRow, ItemRow, as_json, outcome_of
from pixmill.broker.streams import Entry
from pixmill.records.keys import Uid

log = structlog.get_logger(__name__)

# The states in which an event may find an item. A release has no event: its row is `running` until the next claim.
_WAITING = frozenset({"queued", "retry_wait", "throttled"})
_RUNNING = frozenset({"running"})
_FINDS: Mapping[str, frozenset[str]] = {
    "job.queued": frozenset({"failed", "cancelled", "expired", "held"}),
    "job.started": _WAITING | _RUNNING,
    "job.retrying": _RUNNING,
    "job.succeeded": _RUNNING,
    "job.failed": _RUNNING,
    "job.held": _RUNNING,
    # The record of a running item that is cancelled may have the error of its last call, which the event lacks.
    "job.cancelled": _WAITING | {"held"},
    "job.expired": _WAITING,
}


class ItemEvent(NamedTuple):
    """An event that changes the state of an item; `changes` are the columns that it sets."""

    position: Position
    uid: Uid
    kind: str
    time: datetime
    job: str
    metadata: str
    changes: Mapping[str, Any]


class Page(NamedTuple):
    """The events of a read, without those that change nothing here.

    `batches` are the groups with news, each with the row that its end makes, if it has ended. Records tell more.
    """

    items: list[ItemEvent]
    batches: dict[str, BatchRow | None]
    last: Position


class Story(NamedTuple):
    """The rows after a page's events, and which of them are in doubt."""

    rows: dict[Uid, ItemRow]
    in_doubt: set[Uid]


def page_of(entries: Iterable[Entry]) -> Page:
    """The events of stream entries, oldest first; an entry that cannot be read is not one of ours."""
    items: list[ItemEvent] = []
    batches: dict[str, BatchRow | None] = {}
    last: Position = (0, 0)
    for name, fields in entries:
        position = position_of(name)
        last = max(last, position)
        kind = fields.get(b"type", b"").decode("utf-8", "replace")
        try:
            if kind in _FINDS:
                items.append(_item_event(position, kind, orjson.loads(fields[b"data"])))
            elif kind.startswith("batch."):
                data = orjson.loads(fields[b"data"])
                batches[f"{data['tenant']}/{data['batch']}"] = (
                    _ended_batch(position, data) if "state" in data else None
                )
        except (ValueError, KeyError, TypeError):
            log.warning("an event cannot be read", entry=name)
    return Page(sorted(items, key=lambda event: event.position), batches, last)


def _ended_batch(position: Position, data: Mapping[str, Any]) -> BatchRow:
    finished_at = datetime.fromisoformat(data["time"])
    return BatchRow(
        data["tenant"],
        data["batch"],
        data["state"],
        **{name: int(count) for name, count in data["counts"].items() if name in BatchRow._fields},
        metadata=as_json(data.get("metadata")) or "{}",
        accepted_at=finished_at - timedelta(seconds=data["seconds"]),
        finished_at=finished_at,
        event_ms=position[0],
        event_seq=position[1],
        from_record=False,
    )


def _item_event(position: Position, kind: str, data: Mapping[str, Any]) -> ItemEvent:
    uid = Uid(data["tenant"], data["batch"] or "", data["item"])
    time = datetime.fromisoformat(data["time"])
    metadata = as_json(data.get("metadata")) or "{}"
    return ItemEvent(position, uid, kind, time, data["job"], metadata, _changes(kind, time, data))


def tell(known: Mapping[Uid, ItemRow], events: Iterable[ItemEvent]) -> Story:
    """Carry `events`, oldest first, on from the rows that are `known`."""
    rows: dict[Uid, ItemRow] = {}
    in_doubt: set[Uid] = set()
    for event in events:
        row = rows.get(event.uid) or known.get(event.uid)
        if row is not None and event.position <= row.position:
            if event.position < row.position and not row.from_record:
                in_doubt.add(event.uid)
            continue
        if not _fits(row, event.kind):
            in_doubt.add(event.uid)
        rows[event.uid] = _next(row, event)
    return Story(rows, in_doubt)


def _fits(row: ItemRow | None, kind: str) -> bool:
    return kind == "job.queued" if row is None else row.state in _FINDS[kind]


def _next(row: ItemRow | None, event: ItemEvent) -> ItemRow:
    known = row or ItemRow(*event.uid, event.job, "queued", metadata=event.metadata)
    accepted_at = known.accepted_at or (event.time if event.kind == "job.queued" else None)
    ms, seq = event.position
    return known._replace(
        event_ms=ms, event_seq=seq, from_record=False, accepted_at=accepted_at, **event.changes
    )


def _changes(kind: str, time: datetime, data: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that an event changes. Raises KeyError, TypeError or ValueError for one that is not ours."""
    # A poisoned item fails without a count: nothing but its workers has failed.
    attempts = {"attempts": int(data["attempts"])} if "attempts" in data else {}
    match kind:
        case "job.queued":
            return {"state": "queued", "attempts": 0, "error": None, "finished_at": None}
        case "job.started":
            return {"state": "running", "started_at": time, "finished_at": None}
        case "job.retrying":
            return {"state": str(data["state"]), "error": as_json(data["error"]), **attempts}
        case "job.held":
            return {"state": "held", "error": as_json(data["error"])}
        case "job.succeeded":
            done = {"state": "succeeded", "error": None, "finished_at": time}
            return {**done, **outcome_of(data), **attempts}
        case "job.failed":
            return {"state": "failed", "error": as_json(data["error"]), "finished_at": time, **attempts}
        case _:  # job.cancelled, job.expired
            return {"state": kind.removeprefix("job."), "finished_at": time}
