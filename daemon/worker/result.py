"""What the record and the event tell of a finished item (contract: states, events, results)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from daemon.contract import Job
from daemon.queue.keys import Uid
from daemon.storage.keeper import Place
from daemon.worker.run import Run
from providers.base import Generated


@dataclass(frozen=True, slots=True)
class Made:
    """A picture that the provider has made, with what it says of it."""

    data: bytes
    generated: Generated
    task_id: str | None
    provider_s: float


def place_of(run: Run) -> Place:
    """What an image's key is made of: the item's name and the time of its acceptance, the same for every run."""
    return Uid.parse(run.item.uid), datetime.fromtimestamp(run.item.accepted_us / 1e6, UTC)


def result_of(run: Run, job: Job, image: dict[str, Any], made: Made | None) -> dict[str, Any]:
    """Of a picture that a call has made, in this run (`made`) or in one before it."""
    result: dict[str, Any] = {
        "images": [image],
        "attempts": run.item.attempts + 1,
        "queue_seconds": round(run.item.queue_us / 1e6, 3),
        "throttled_seconds": round(run.item.throttled_us / 1e6, 3),
        "provider_seconds": None,
        "provider_task_id": orjson.loads(run.item.receipt)["task_id"] if run.item.receipt else None,
        "revised_prompt": None,
        "cost": None,
        "cache": "miss" if job.cache == "use" else None,
        "cached_from": None,
    }
    if made is not None:
        result["provider_seconds"] = round(made.provider_s, 3)
        result["provider_task_id"] = made.task_id
        result["revised_prompt"] = made.generated.revised_prompt
        if made.generated.cost is not None:
            result["cost"] = {"amount": f"{made.generated.cost:f}", "currency": made.generated.currency}
    return result
