"""One record of Redis as a typed value: an item, or a group of items with its counts; and how they show in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from daemon.contract import FINAL_STATES
from daemon.queue.keys import JOINED, Uid
from daemon.queue.messages import GroupCounts
from providers.errors import Charged

COUNTED = (
    "queued",
    "throttled",
    "retry_wait",
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
    "held",
)


@dataclass(frozen=True, slots=True)
class ItemView:
    """One item: a job of one picture, picture k of several, or an item of a batch."""

    uid: Uid
    job: str
    state: str
    route: str
    lane: str
    place: str
    group: str | None
    accepted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    due_at: datetime | None
    attempts: int
    max_attempts: int
    deliveries: int
    throttles: int
    queue_s: float
    throttled_s: float
    metadata: dict[str, str]
    spec: dict[str, Any] = field(repr=False)
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    provider_task: dict[str, Any] | None = None
    cancel_asked: bool = False
    calls: Mapping[str, int] = field(
        default_factory=dict
    )  # of its runs that ended, by whether they are charged

    @property
    def id(self) -> str:
        """The item's id within its batch, or of its own."""
        return self.uid.item

    @property
    def tenant(self) -> str:
        return self.uid.tenant

    @property
    def batch(self) -> str | None:
        return self.uid.batch or None

    @property
    def priority(self) -> str:
        """The job's word for its lane."""
        return self.lane

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def needs_person(self) -> bool:
        """Nothing will happen until somebody decides."""
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
            "route": self.route,
            "priority": self.priority,
            "accepted_at": _text(self.accepted_at),
            "started_at": _text(self.started_at),
            "finished_at": _text(self.finished_at),
            "due_at": _text(self.due_at),
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
    accepted_at: datetime
    finished_at: datetime | None
    parts: int
    parts_left: int
    route: str
    metadata: dict[str, str]
    warnings: tuple[str, ...] = ()
    max_in_flight: int | None = None
    cancel_asked: bool = False
    paused: str | None = None  # the reason that was given, perhaps empty

    @property
    def ended(self) -> bool:
        return self.state != "running"

    @property
    def needs_person(self) -> bool:
        """All that has not ended is held: nothing will happen until somebody decides."""
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
    """What the newest `batch.progress` event says: `eta_s` and `bound` are None while nothing is known."""

    eta_s: float | None
    bound: str | None


GROUP_FIELDS = (
    "kind", "state", "head", "accepted_us", "finished_us", "parts", "parts_left", "route", "details",
    "max_in_flight", "cancel", "paused", "total", *COUNTED,
)  # fmt: skip


def group_view(gid: str, row: Sequence[bytes | None]) -> GroupView | None:
    """From the values of GROUP_FIELDS; None when there is no such group."""
    values = dict(zip(GROUP_FIELDS, row, strict=True))
    kind, state, head = (_decoded(values[name]) for name in ("kind", "state", "head"))
    if kind not in ("batch", "job"):
        return None
    identity = orjson.loads(f"{{{head}}}")
    details = orjson.loads(values["details"] or b"{}")
    counts = [int(values[name] or 0) for name in ("total", *COUNTED)]
    cap = values["max_in_flight"]
    return GroupView(
        gid=gid,
        kind="batch" if kind == "batch" else "job",
        tenant=identity["tenant"],
        id=identity["job"],
        state=state,
        counts=GroupCounts(gid, head, *counts),
        accepted_at=_time(values["accepted_us"]) or _EPOCH,
        finished_at=_time(values["finished_us"]),
        parts=int(values["parts"] or 1),
        parts_left=int(values["parts_left"] or 0),
        route=_decoded(values["route"]),
        metadata=identity.get("metadata", {}),
        warnings=tuple(details.get("warnings", ())),
        max_in_flight=int(cap) if cap else None,
        cancel_asked=values["cancel"] is not None,
        paused=None if values["paused"] is None else orjson.loads(values["paused"]),
    )


def item_view(uid: str, fields: Mapping[bytes, bytes], due_us: float | None) -> ItemView:
    """From an item\'s hash, and its time in the delayed set if it is there."""
    identity = orjson.loads(f"{{{fields[b'head'].decode()}}}")
    result = _json(fields.get(b"result"))
    return ItemView(
        uid=Uid.parse(uid),
        job=identity["job"],
        state=fields[b"state"].decode(),
        route=fields[b"route"].decode(),
        lane=fields[b"lane"].decode(),
        place=fields[b"place"].decode(),
        group=fields[b"group"].decode() or None,
        accepted_at=_time(fields[b"accepted_us"]) or _EPOCH,
        started_at=_time(fields.get(b"started_us")),
        finished_at=_time(fields.get(b"finished_us")),
        # An item that had joined another one is due when it was woken, which is no time of its own.
        due_at=None if fields[b"place"] == JOINED.encode() else _time(due_us),
        # A success is not counted in the record's attempts, which are the failed ones; its result counts it.
        attempts=int((result or {}).get("attempts", fields[b"attempts"])),
        max_attempts=int(fields[b"max_attempts"]),
        deliveries=int(fields[b"deliveries"]),
        throttles=int(fields[b"throttles"]),
        queue_s=int(fields[b"queue_us"]) / 1e6,
        throttled_s=int(fields[b"throttled_us"]) / 1e6,
        metadata=identity.get("metadata", {}),
        spec=orjson.loads(fields[b"spec"]),
        error=_json(fields.get(b"error")),
        result=result,
        provider_task=_json(fields.get(b"receipt") or fields.get(b"late_receipt")),
        cancel_asked=b"cancel" in fields,
        calls={charged: int(fields.get(f"calls_{charged}".encode(), 0)) for charged in map(str, Charged)},
    )


_EPOCH = datetime.fromtimestamp(0, UTC)


def _time(us: bytes | float | None) -> datetime | None:
    return datetime.fromtimestamp(int(us) / 1e6, UTC) if us else None


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(text: bytes | None) -> dict[str, Any] | None:
    loaded: dict[str, Any] | None = orjson.loads(text) if text else None
    return loaded


def _decoded(value: bytes | None) -> str:
    return value.decode() if value else ""
