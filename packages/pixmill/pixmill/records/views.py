"""Typed views of the records in Redis: an item, or a group with its counts; both have a JSON form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, Json, TypeAdapter

from pixmill.contract import FINAL_STATES
from pixmill.contract.event_types import CHARGES
from pixmill.records.counts import GroupCounts
from pixmill.records.keys import Uid

# The records' formats: times and lengths in microseconds, objects as JSON.
Time = Annotated[datetime, BeforeValidator(lambda us: datetime.fromtimestamp(int(us) / 1e6, UTC))]
Seconds = Annotated[float, BeforeValidator(lambda us: int(us) / 1e6)]
Object = Json[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ItemView:
    """One item: a job of one picture, picture k of several, or an item of a batch."""

    uid: Uid
    job: str
    state: str
    route: str
    lane: str
    place: str
    attempts: int
    max_attempts: int
    metadata: dict[str, str]
    spec: Object
    accepted_at: Annotated[Time, Field(alias="accepted_us")]
    calls: Mapping[str, int]  # calls of its ended runs, by charge
    deliveries: int = 0
    throttles: int = 0
    queue_s: Annotated[Seconds, Field(alias="queue_us")] = 0.0
    throttled_s: Annotated[Seconds, Field(alias="throttled_us")] = 0.0
    group: str | None = None
    started_at: Annotated[Time | None, Field(alias="started_us")] = None
    finished_at: Annotated[Time | None, Field(alias="finished_us")] = None
    due_at: Annotated[Time | None, Field(alias="due_us")] = None
    error: Object | None = None  # of the last try; None once it has succeeded
    result: Object | None = None
    provider_task: Object | None = None
    cancel_requested: bool = False
    via: str = ""  # the route whose account its last run used; '' where no other can

    @property
    def made_by(self) -> str:
        """The route whose account runs it, or ran it last; its own route while it waits."""
        if self.state == "succeeded" and self.result is not None:
            return str(self.result.get("route", self.route))  # `via` may be of an earlier run
        return self.via if self.via and (self.ended or self.state == "running") else self.route

    @property
    def id(self) -> str:
        """The item's id within its batch, or the job's id."""
        return self.uid.item

    @property
    def tenant(self) -> str:
        return self.uid.tenant

    @property
    def batch(self) -> str | None:
        return self.uid.batch or None

    @property
    def priority(self) -> str:
        """The lane as the contract's `priority`."""
        return self.lane

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def needs_person(self) -> bool:
        """Whether a person must decide before it goes on."""
        return self.state == "held"

    @property
    def images(self) -> list[dict[str, Any]]:
        images: list[dict[str, Any]] = (self.result or {}).get("images", [])
        return images

    def as_dict(self) -> dict[str, Any]:
        """The record for JSON answers, with the contract's names."""
        result = self.result or {"attempts": self.attempts, "images": []}
        return {
            "tenant": self.tenant,
            "job": self.job,
            "item": self.id,
            "batch": self.batch,
            "state": self.state,
            "route": self.made_by,
            "instead_of": None if self.made_by == self.route else self.route,
            "priority": self.priority,
            **{
                name: _text(getattr(self, name))
                for name in ("accepted_at", "started_at", "finished_at", "due_at")
            },
            "throttles": self.throttles,
            "queue_seconds": round(self.queue_s, 3),
            "throttled_seconds": round(self.throttled_s, 3),
            "error": self.error,
            "metadata": self.metadata,
            "calls": dict(self.calls),
            **result,
        }


@dataclass(frozen=True, slots=True)
class GroupView:
    """A batch, or a job of several pictures, with its items counted by state."""

    gid: str
    kind: Literal["batch", "job"]
    tenant: str
    id: str
    state: str
    counts: GroupCounts
    accepted_at: Annotated[Time, Field(alias="accepted_us")]
    parts: int
    parts_left: int
    route: str
    metadata: dict[str, str]
    warnings: tuple[str, ...] = ()
    finished_at: Annotated[Time | None, Field(alias="finished_us")] = None
    max_in_flight: int | None = None
    cancel_requested: bool = False
    paused: Json[str] | None = None  # the reason of the pause, perhaps empty

    @property
    def ended(self) -> bool:
        return self.state != "running"

    @property
    def needs_person(self) -> bool:
        """Whether all unended items are held, so that a person must decide before it goes on."""
        return (
            self.counts.held > 0
            and self.parts_left == 0
            and self.counts.ended + self.counts.held == self.counts.total
        )

    @property
    def progress(self) -> float:
        """The share of its items that have ended, 0 to 1."""
        return round(self.counts.ended / self.counts.total, 4) if self.counts.total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The record for JSON answers, with the contract's names."""
        return {
            self.kind: self.id,
            "tenant": self.tenant,
            "state": self.state,
            "counts": self.counts.by_state(),
            "progress": self.progress,
            "accepted_at": _text(self.accepted_at),
            "finished_at": _text(self.finished_at),
            "parts": self.parts,
            "parts_left": self.parts_left,
            "route": self.route,
            "metadata": self.metadata,
            "warnings": list(self.warnings),
        }


View = GroupView | ItemView


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest `batch.progress` event: `eta_s` and `bound` are None while they are unknown."""

    eta_s: float | None
    bound: str | None


_ITEM, _GROUP = TypeAdapter(ItemView), TypeAdapter(GroupView)


def item_view(uid: str, fields: Mapping[bytes, bytes], due_us: float | None) -> ItemView:
    """The view of an item's hash; `due_us` is its time in the delayed set, if it is there."""
    record = _record(fields)
    # The record's attempts are the failed ones only; the result counts the successful one as well.
    attempts = orjson.loads(record.get("result", "{}")).get("attempts", record.get("attempts", 0))
    due = {} if due_us is None else {"due_us": due_us}
    calls = {charged: record.get(f"calls_{charged}", 0) for charged in CHARGES}
    task = record.get("receipt") or record.get("late_receipt")
    if record["state"] == "succeeded":
        record.pop("error", None)  # of an earlier try
    found = {"uid": Uid.parse(uid), "attempts": attempts, "calls": calls, "provider_task": task, **due}
    return _ITEM.validate_python({**record, **found})


def group_view(gid: str, fields: Mapping[bytes, bytes]) -> GroupView | None:
    """The view of a group's hash; None if there is no such group, or if its deletion has begun."""
    record = _record(fields)
    if "kind" not in record or "deleting" in record:
        return None
    counts = GroupCounts(gid, record["head"], *(int(record[name]) for name in _COUNTED))
    warnings = [*orjson.loads(record["details"]).get("warnings", ()), *_unpublished(record)]
    found = {"gid": gid, "id": record["job"], "counts": counts, "warnings": warnings}
    return _GROUP.validate_python({**record, **found})


def _unpublished(record: Mapping[str, Any]) -> Iterator[str]:
    if count := record.get("unpublished"):
        yield (
            f"{count} events of this batch are only in the stream of all events: the key of the batch's own stream "
            "holds something else, so remove or rename that key."
        )


_COUNTED = GroupCounts._fields[2:]


def _record(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The fields of a record by name, without empty ones, and the identity from its head."""
    record: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items() if value}
    if "head" in record:
        record |= {"metadata": {}, **orjson.loads(f"{{{record['head']}}}")}
    return {**record, "cancel_requested": "cancel" in record}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def rfc3339(moment: datetime) -> str:
    """A time in UTC as answers have it, such as `2026-01-31T09:30:00.000Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
