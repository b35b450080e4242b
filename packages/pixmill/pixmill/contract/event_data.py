"""The data of each type of event, the records of images and errors: for schemas, and for readers who want models.

Fields may be added to events at any time, so readers must ignore unknown ones.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from pixmill.contract.event_types import BatchState, Charge, EventType


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)  # most are only for the schema


class ImageRecord(_Open):
    """One stored image. `url` and `thumb_url` may be signed and then end; `key` is the name that stays."""

    key: str = Field(description="object key in the store")
    url: str | None = None
    thumb_url: str | None = None
    width: int = Field(ge=1, description="pixels, as measured in the file")
    height: int = Field(ge=1, description="pixels, as measured in the file")
    bytes: int = Field(ge=1, description="size of the file")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    content_type: str = Field(description="from the file's own bytes, not from the request")
    seed: int | None = None


class ErrorRecord(_Open):
    """Why a picture failed, and whether it was paid for."""

    kind: str = Field(description="one word of the taxonomy of failures, such as moderation_input")
    message: str = Field(description="a sentence for people, without secrets")
    provider_code: str | None = None
    http_status: int | None = None
    charged: Charge = "maybe"
    retryable: bool = False


class Counts(_Open):
    """A batch's items by state; they always sum to `total`."""

    total: int = Field(ge=0)
    queued: int = Field(0, ge=0)
    throttled: int = Field(0, ge=0, description="queued, and waiting for quota")
    retry_wait: int = Field(0, ge=0, description="queued, and waiting for the time of the next attempt")
    running: int = Field(0, ge=0)
    succeeded: int = Field(0, ge=0)
    failed: int = Field(0, ge=0)
    cancelled: int = Field(0, ge=0)
    expired: int = Field(0, ge=0)
    held: int = Field(0, ge=0)


class BatchEvent(_Open):
    batch: str
    tenant: str | None = None
    time: AwareDatetime | None = None
    counts: Counts | None = None


class BatchProgress(BatchEvent):
    """At most two a second for a batch."""

    counts: Counts
    progress: float = Field(ge=0, le=1)
    eta_seconds: float | None = Field(None, ge=0)
    bound: str | None = Field(None, description="what holds the batch back, such as quota:openai-main.images")


class BatchFinished(BatchEvent):
    state: BatchState
    counts: Counts


class JobEvent(_Open):
    tenant: str
    job: str = Field(description="the producer's id, or the stream entry's id when none could be read")
    item: str = Field(description="the job's id, or {id}.{k} for picture k of several")
    batch: str | None
    time: AwareDatetime


class JobStarted(JobEvent):
    attempt: int | None = Field(None, ge=1)
    route: str | None = Field(
        None, description="the route whose account it uses, if that is not the job's own"
    )
    instead_of: str | None = Field(None, description="the job's route then")


class JobSubmitted(JobEvent):
    provider_task_id: str | None = None


class JobRetrying(JobEvent):
    error: ErrorRecord | None = None
    state: Literal["retry_wait", "throttled", "queued"] | None = Field(None, description="how it waits")


class JobSucceeded(JobEvent):
    images: list[ImageRecord]
    attempts: int = Field(ge=0)
    queue_seconds: float = Field(ge=0)
    throttled_seconds: float = Field(ge=0)
    provider_seconds: float = Field(ge=0)
    provider_task_id: str | None = None
    revised_prompt: str | None = None
    cost: Any = None
    route: str | None = Field(
        None, description="the route whose account made it, if that is not the job's own"
    )
    instead_of: str | None = Field(None, description="the job's route then")
    cache: Literal["hit", "joined", "miss"] | None = Field(
        None, description="for `cache: use`: the picture was there, was being made, or had to be made"
    )
    cached_from: str | None = Field(
        None, description="the item, or BATCH/ITEM, that the picture is a copy of"
    )


class JobFailed(JobEvent):
    error: ErrorRecord


class JobHeld(JobEvent):
    error: ErrorRecord | None = None


class JobRejected(JobEvent):
    code: str
    field: str | None = None
    message: str


class QuotaEvent(_Open):
    quota: str
    time: AwareDatetime | None = None


class ProviderEvent(_Open):
    """About the way from one replica to the provider of a route."""

    provider: str
    route: str
    time: AwareDatetime


class WorkEvent(_Open):
    """About the whole fleet, one route, or one batch (then also on that batch's stream)."""

    scope: Literal["fleet", "route", "batch"]
    route: str | None = None
    batch: str | None = None
    time: AwareDatetime


class WorkPaused(WorkEvent):
    reason: str
    until: AwareDatetime | None = Field(None, description="null: until it is resumed")


EVENT_DATA: dict[EventType, type[_Open]] = {
    "batch.accepted": BatchEvent,
    "batch.progress": BatchProgress,
    "batch.finished": BatchFinished,
    "job.queued": JobEvent,
    "job.started": JobStarted,
    "job.submitted": JobSubmitted,
    "job.retrying": JobRetrying,
    "job.succeeded": JobSucceeded,
    "job.failed": JobFailed,
    "job.cancelled": JobEvent,
    "job.expired": JobEvent,
    "job.rejected": JobRejected,
    "job.duplicate": JobEvent,
    "job.held": JobHeld,
    "quota.cooldown": QuotaEvent,
    "quota.adapted": QuotaEvent,
    "quota.paused": QuotaEvent,
    "provider.unreachable": ProviderEvent,
    "provider.reachable": ProviderEvent,
    "work.paused": WorkPaused,
    "work.resumed": WorkEvent,
}
