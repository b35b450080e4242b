"""The values that clients return: results of pictures, the state of work, and events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

OnProgress = Callable[[int, int], Awaitable[None] | None]  # of the pictures that have ended, and of all

_FINAL = ("succeeded", "failed", "cancelled", "expired")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one picture: `images` has one entry if it `succeeded`, `error` is the reason why it `failed`.

    `images` and `error` have the fields of the record, such as `url`, `width`, `sha256`, and `kind`, `message`,
    `charged`. `seconds` are from the start of its last call to its end; 0 before that.

    Example:

        for result in client.results("spring"):
            print(result.id, result.state, result.url or result.message)
    """

    id: str
    job: str
    state: str
    images: tuple[dict[str, Any], ...]
    error: dict[str, Any] | None
    batch: str | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the picture is there."""
        return self.state == "succeeded"

    @property
    def url(self) -> str | None:
        """The address of the picture, as the store or the gateway names it."""
        return self.images[0].get("url") if self.images else None

    @property
    def message(self) -> str | None:
        """Why there is no picture, for people; None where there is one, or none yet."""
        if self.error is not None:
            return str(self.error.get("message", self.state))
        return f"It was {self.state}." if self.state in ("cancelled", "expired") else None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Result:
        """The result in a record: of Redis, or of the gateway."""
        return cls(
            record.get("item") or record["id"],
            record["job"],
            record["state"],
            tuple(record.get("images") or ()),
            record.get("error"),
            record.get("batch"),
            _seconds(record),
        )


def _seconds(record: Mapping[str, Any]) -> float:
    started, finished = record.get("started_at"), record.get("finished_at")
    if not started or not finished:
        return float(record.get("provider_seconds") or 0.0)
    between = datetime.fromisoformat(finished) - datetime.fromisoformat(started)
    return max(0.0, round(between.total_seconds(), 3))


@dataclass(frozen=True, slots=True)
class Status:
    """How far a job or a batch is. `counts` are its pictures by state, which sum to `total`.

    Example:

        status = client.status("spring")
        if status is not None and status.ended:
            print(status.state, status.done, "of", status.total)
    """

    id: str
    state: str
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The pictures of it."""
        return self.counts.get("total", 0)

    @property
    def done(self) -> int:
        """The pictures that have ended, made or not."""
        return sum(self.counts.get(state, 0) for state in _FINAL)

    @property
    def ended(self) -> bool:
        """Whether all of it has ended."""
        return self.total > 0 and self.done == self.total

    @property
    def needs_person(self) -> bool:
        """Whether nothing goes on before a person decides about held pictures."""
        held = self.counts.get("held", 0)
        return held > 0 and self.done + held == self.total

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Status:
        """The state in a record: of Redis, or of the gateway."""
        counts = record.get("counts") or {"total": 1, record["state"]: 1}
        return cls(record.get("batch") or record.get("id") or record["job"], record["state"], counts)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job or a batch. `id` is its place: `watch(..., after=id)` goes on behind it.

    Example:

        for event in client.watch("spring"):
            if event.type == "job.succeeded":
                print(event.data["item"], event.data["images"][0]["url"])
    """

    type: str
    data: Mapping[str, Any]
    id: str = ""
