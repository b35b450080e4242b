"""The types of events, and the states that they report."""

from __future__ import annotations

from typing import Literal, get_args

# The events that a callback may report: those of accepted work. Progress is only for readers of the stream.
CallbackEvent = Literal[
    "batch.accepted",
    "batch.finished",
    "job.queued",
    "job.started",
    "job.submitted",
    "job.retrying",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "job.held",
]
EventType = Literal[
    CallbackEvent,
    "batch.progress",
    "job.rejected",
    "job.duplicate",
    "quota.cooldown",
    "quota.adapted",
    "quota.paused",
    "provider.unreachable",
    "provider.reachable",
    "work.paused",
    "work.resumed",
]

BatchState = Literal["running", "completed", "completed_with_errors", "failed", "cancelled", "expired"]
ItemState = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired", "held"]
FINAL_STATES: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "expired"})

# Whether the provider takes money for a call.
Charge = Literal["no", "maybe", "yes"]
CHARGES: tuple[Charge, ...] = get_args(Charge)
