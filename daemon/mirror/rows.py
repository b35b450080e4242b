"""The rows of the two tables, made from the records in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from daemon.gateway.events.frames import START, Position
from pixmill.records.keys import Uid, batch_gid
from pixmill.records.records import GroupView, ItemView


class ItemRow(NamedTuple):
    """A row of `pixmill_items`, with its columns in their order. `error` to `cost` are JSON."""

    tenant: str
    batch: str
    item: str
    job: str
    state: str
    attempts: int = 0
    error: str | None = None
    images: str | None = None
    metadata: str = "{}"
    cost: str | None = None
    provider_task_id: str | None = None
    queue_seconds: float | None = None
    throttled_seconds: float | None = None
    provider_seconds: float | None = None
    accepted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    event_ms: int = START[0]
    event_seq: int = START[1]
    from_record: bool = False

    @property
    def uid(self) -> Uid:
        return Uid(self.tenant, self.batch, self.item)

    @property
    def position(self) -> Position:
        """The event that the row is as new as."""
        return self.event_ms, self.event_seq


class BatchRow(NamedTuple):
    """A row of `pixmill_batches`, with its columns in their order."""

    tenant: str
    batch: str
    state: str
    total: int
    queued: int
    throttled: int
    retry_wait: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    held: int
    metadata: str
    accepted_at: datetime | None
    finished_at: datetime | None
    event_ms: int
    event_seq: int
    from_record: bool = True

    @property
    def gid(self) -> str:
        return batch_gid(self.tenant, self.batch)


def item_row(view: ItemView, at: Position) -> ItemRow:
    """The row of a record that was read when the stream had come to `at`."""
    uid = view.uid
    return ItemRow(
        uid.tenant,
        uid.batch,
        uid.item,
        view.job,
        view.state,
        view.attempts,
        as_json(view.error),
        metadata=as_json(view.metadata) or "{}",
        accepted_at=_in_ms(view.accepted_at),
        started_at=_in_ms(view.started_at),
        finished_at=_in_ms(view.finished_at),
        event_ms=at[0],
        event_seq=at[1],
        from_record=True,
        **outcome_of(view.result or {}),
    )


def batch_row(view: GroupView, at: Position) -> BatchRow:
    """The row of a batch's record that was read when the stream had come to `at`."""
    return BatchRow(
        view.tenant,
        view.id,
        view.state,
        *view.counts[2:],
        as_json(view.metadata) or "{}",
        _in_ms(view.accepted_at),
        _in_ms(view.finished_at),
        *at,
    )


def outcome_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a result has, which its event and its record share."""
    return {
        "images": as_json(result.get("images")),
        "cost": as_json(result.get("cost")),
        "provider_task_id": without_nul(result.get("provider_task_id")),
        "queue_seconds": result.get("queue_seconds"),
        "throttled_seconds": result.get("throttled_seconds"),
        "provider_seconds": result.get("provider_seconds"),
    }


def as_json(value: Any) -> str | None:
    """JSON for PostgreSQL, whose texts cannot hold the character NUL; None for nothing."""
    if value is None:
        return None
    text = orjson.dumps(value)
    return (orjson.dumps(without_nul(value)) if b"\\u0000" in text else text).decode()


def without_nul(value: Any) -> Any:
    """The same value, with no NUL in any of its texts."""
    match value:
        case str():
            return value.replace("\0", "")
        case list():
            return [without_nul(each) for each in value]
        case dict():
            return {without_nul(name): without_nul(each) for name, each in value.items()}
        case _:
            return value


def _in_ms(moment: datetime | None) -> datetime | None:
    """A time as events have it, so that a row does not show where it came from."""
    return moment and moment.replace(microsecond=moment.microsecond // 1000 * 1000)
