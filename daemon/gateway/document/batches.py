"""The shapes of answers about batches and their items."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import AwareDatetime, Field

from daemon.gateway.document.shapes import HERE, TIME, Example, Outlook, Shape
from pixmill.contract.event_data import Counts
from pixmill.contract.event_types import BatchState


class BatchUrls(Shape):
    """Where to go on."""

    self: str
    items: str
    events: str
    cancel: str
    retry: str
    explain: str
    pause: str
    resume: str
    log: str
    archive: str


def _batch_urls(address: str) -> Example:
    names = ("items", "events", "cancel", "retry", "explain", "pause", "resume", "log")
    return {
        "self": address,
        **{name: f"{address}/{name}" for name in names},
        "archive": f"{address}/archive.zip",
    }


class Summary(Shape):
    """How well and how fast a batch went."""

    success_rate: float | None = Field(ge=0, le=1, description="of what has ended")
    seconds: float
    pictures_per_minute: float
    cost: dict[str, str] | None = Field(None, description="amounts by currency")
    failures: list[dict[str, Any]] | None = Field(None, description="kind, count and an example of each")


class AcceptedBatch(Shape):
    """A batch is recorded."""

    id: str
    total: int
    counts: Counts
    eta_seconds: float | None
    bound: str | None
    urls: BatchUrls
    example: ClassVar[Example] = {
        "id": "spring",
        "total": 2,
        "counts": {"total": 2, "queued": 2},
        "eta_seconds": 12.0,
        "bound": None,
        "urls": _batch_urls(f"{HERE}/batches/spring"),
    }


class BatchRecord(Outlook):
    """A batch: its counts always sum to their total."""

    id: str
    batch: str
    tenant: str
    state: BatchState
    counts: Counts
    progress: float = Field(ge=0, le=1)
    accepted_at: AwareDatetime
    finished_at: AwareDatetime | None
    parts: int
    parts_left: int
    route: str
    metadata: dict[str, str]
    warnings: list[str]
    paused: str | None = Field(description="the reason of its pause, perhaps empty; null: it is not paused")
    paused_by: str | None = Field(
        description="the name of the key that paused it; null: not paused, or no key"
    )
    summary: Summary
    urls: BatchUrls
    example: ClassVar[Example] = {
        "id": "spring",
        "batch": "spring",
        "tenant": "default",
        "state": "running",
        "progress": 0.5,
        "counts": {"total": 2, "running": 1, "succeeded": 1},
        "accepted_at": TIME,
        "finished_at": None,
        "parts": 1,
        "parts_left": 0,
        "route": "default",
        "metadata": {},
        "warnings": [],
        "paused": None,
        "paused_by": None,
        "position": None,
        "eta_seconds": 9.5,
        "bound": None,
        "next_slot_at": None,
        "summary": {
            "success_rate": 1.0,
            "seconds": 12.0,
            "pictures_per_minute": 5.0,
            "cost": {"USD": "0.04"},
            "failures": [],
        },
        "urls": _batch_urls(f"{HERE}/batches/spring"),
    }


class BatchPage(Shape):
    """Batches, newest first; `next` is the cursor of the next page."""

    batches: list[BatchRecord]
    next: str | None
    example: ClassVar[Example] = {"batches": [BatchRecord.example], "next": None}


class DryRun(Shape):
    """The needs of a batch; nothing is recorded."""

    pictures: int
    seconds: float | None = Field(description="null: unknown, or held back by `bound` without a known end")
    bound: str | None = Field(description="what takes most of that time, or holds it back")
    cost: None = None
    refused: list[Refused]
    notes: list[str]
    example: ClassVar[Example] = {
        "pictures": 40,
        "seconds": 120.0,
        "bound": "quota:openai-main.images",
        "cost": None,
        "refused": [{"line": 9, "field": "items.8.size", "message": "`size` is wrong."}],
        "notes": [],
    }


class Refused(Shape):
    """One reason to refuse a batch; `line` counts the body's lines from 1."""

    line: int | None
    field: str | None
    message: str


class SlimItem(Shape):
    """An item as lists show it."""

    id: str
    job: str
    state: str
    route: str
    prompt: str = Field(description="its first 500 characters")
    attempts: int = Field(ge=0)
    max_attempts: int = Field(ge=1)
    submitted: bool = Field(description="the provider has accepted it, and has a task for it")
    thumb: str | None
    width: int | None = Field(description="of its picture, in pixels")
    height: int | None = Field(description="of its picture, in pixels")
    error: dict[str, Any] | None
    accepted_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    due_at: AwareDatetime | None
    metadata: dict[str, str]


class ItemPage(Shape):
    """Items in the order of acceptance; `next` is the cursor of the next page."""

    items: list[SlimItem]
    next: str | None
    example: ClassVar[Example] = {
        "items": [
            {
                "id": "sku-1",
                "job": "sku-1",
                "state": "queued",
                "route": "default",
                "prompt": "a red kettle",
                "attempts": 0,
                "max_attempts": 5,
                "submitted": False,
                "thumb": None,
                "width": None,
                "height": None,
                "error": None,
                "accepted_at": TIME,
                "started_at": None,
                "finished_at": None,
                "due_at": None,
                "metadata": {"sku": "1"},
            }
        ],
        "next": None,
    }


class Affected(Shape):
    """How many items an order is about."""

    affected: int
    example: ClassVar[Example] = {"affected": 3}


class BatchLog(Shape):
    """The log of a batch: each item with its time, also one that failed, and the whole."""

    session_id: str
    tenant: str
    state: BatchState
    accepted_at: AwareDatetime
    finished_at: AwareDatetime | None
    metadata: dict[str, str]
    total: int
    succeeded: int
    failed: int
    success_rate: float | None
    seconds: float
    mean_seconds: float | None
    items: list[dict[str, Any]]
    example: ClassVar[Example] = {
        "session_id": "spring",
        "tenant": "default",
        "state": "completed",
        "accepted_at": TIME,
        "finished_at": TIME,
        "metadata": {},
        "total": 1,
        "succeeded": 1,
        "failed": 0,
        "success_rate": 1.0,
        "seconds": 9.5,
        "mean_seconds": 9.1,
        "items": [],
    }
