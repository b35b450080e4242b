"""The shapes of answers about jobs, and about single items of a batch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import AwareDatetime, Field

from daemon.gateway.document.shapes import HERE, TIME, Example, Outlook, Shape
from pixmill.contract.event_data import Counts, ErrorRecord, ImageRecord


class JobUrls(Shape):
    """Where to go on."""

    self: str
    events: str
    cancel: str
    retry: str
    explain: str
    images: list[str] = Field(description="of its pictures, made or not")


def _job_urls(address: str) -> Example:
    orders = {name: f"{address}/{name}" for name in ("events", "cancel", "retry", "explain")}
    return {"self": address, **orders, "images": [f"{address}/images/0"]}


class AcceptedJob(Outlook):
    """A job is recorded."""

    id: str
    state: str
    urls: JobUrls
    example: ClassVar[Example] = {
        "id": "kettle-1",
        "state": "queued",
        "position": 3,
        "eta_seconds": 14.5,
        "bound": "quota:openai-main.images",
        "urls": _job_urls(f"{HERE}/jobs/kettle-1"),
    }


class JobRecord(Outlook):
    """A job, or an item of a batch. A job of several pictures has counts; one picture has times of its own."""

    id: str
    job: str
    tenant: str
    state: str = Field(description="queued, running, succeeded, failed, cancelled, expired, held, and others")
    route: str
    attempts: int = Field(ge=0)
    accepted_at: AwareDatetime
    finished_at: AwareDatetime | None
    metadata: dict[str, str]
    images: list[ImageRecord]
    error: ErrorRecord | None
    urls: JobUrls
    prompt: str
    negative_prompt: str | None
    seed: int | None
    size: str | None
    params: dict[str, Any] | None
    max_attempts: int = Field(ge=1)
    item: str | None = None
    batch: str | None = None
    instead_of: str | None = Field(
        None, description="the job's route, if the account of another one takes it"
    )
    priority: str | None = None
    started_at: AwareDatetime | None = None
    due_at: AwareDatetime | None = Field(None, description="the time of the next attempt")
    queue_seconds: float | None = None
    throttled_seconds: float | None = None
    provider_seconds: float | None = None
    calls: dict[str, int] | None = Field(None, description="calls of ended runs, by charge: no, maybe, yes")
    throttles: int | None = Field(None, ge=0, description="refusals for quota, which cost no attempt")
    provider_task_id: str | None = None
    revised_prompt: str | None = Field(None, description="as the provider changed it")
    cost: dict[str, Any] | None = Field(
        None, description="amount and currency, where the provider reports it"
    )
    cache: str | None = Field(None, description="hit, joined or miss, for `cache: use`")
    cached_from: str | None = Field(None, description="the item that the picture is a copy of")
    counts: Counts | None = None
    progress: float | None = Field(None, ge=0, le=1)
    parts: int | None = None
    parts_left: int | None = None
    warnings: list[str] | None = None
    example: ClassVar[Example] = {
        "id": "kettle-1",
        "job": "kettle-1",
        "item": "kettle-1",
        "batch": None,
        "tenant": "default",
        "state": "succeeded",
        "route": "default",
        "instead_of": None,
        "priority": "normal",
        "attempts": 1,
        "max_attempts": 5,
        "prompt": "a red kettle",
        "negative_prompt": None,
        "seed": None,
        "size": "1024x1024",
        "params": None,
        "accepted_at": TIME,
        "started_at": TIME,
        "finished_at": TIME,
        "due_at": None,
        "queue_seconds": 0.4,
        "throttled_seconds": 0.0,
        "provider_seconds": 9.1,
        "metadata": {},
        "calls": {"no": 0, "maybe": 0, "yes": 1},
        "error": None,
        "position": None,
        "eta_seconds": 0.0,
        "bound": None,
        "next_slot_at": None,
        "images": [
            {
                "key": "default/20300131/single/kettle-1.png",
                "url": f"{HERE}/jobs/kettle-1/images/0",
                "thumb_url": f"{HERE}/jobs/kettle-1/images/0?thumb=1",
                "width": 1024,
                "height": 1024,
                "bytes": 1500000,
                "sha256": "0" * 64,
                "content_type": "image/png",
                "seed": None,
            }
        ],
        "urls": _job_urls(f"{HERE}/jobs/kettle-1"),
    }


class Ordered(Shape):
    """The state after an order, and what the provider takes for it."""

    state: str
    charged: Literal["no", "maybe", "yes"]
    example: ClassVar[Example] = {"state": "cancelled", "charged": "no"}


class Explained(Shape):
    """Why it waits, and until when: sentences for people, and the facts behind them."""

    id: str
    state: str
    why: str
    example: ClassVar[Example] = {
        "id": "kettle-1",
        "state": "queued",
        "why": "It waits for a slot of openai-main, in 9 s.",
    }
