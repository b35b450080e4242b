"""An installation whose worker runs beside the test: takes entries, claims items, settles them as the test says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Failed, Held, Outcome, Succeeded
from daemon.storage.object_store import object_key
from pixmill.contract import Job
from pixmill.records.keys import Uid
from tests.daemon.harness import Installation

LOOK_S = 0.005

Decide = Callable[[Claimed, Job], Awaitable[Outcome | None]]


def picture(item: Claimed) -> bytes:
    """The bytes of an item's picture: not a real one, but its own."""
    return b"picture of " + item.uid.encode()


def image_key(item: Claimed) -> str:
    uid = Uid.parse(item.uid)
    return object_key(uid.tenant, "20261122", uid.batch or None, uid.item, "png")


def image_of(item: Claimed) -> dict[str, Any]:
    data = picture(item)
    return {
        "key": image_key(item),
        "url": None,
        "thumb_url": None,
        "width": 16,
        "height": 16,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "content_type": "image/png",
        "seed": None,
    }


def made(item: Claimed) -> Succeeded:
    """The picture is there."""
    return Succeeded(
        {
            "images": [image_of(item)],
            "attempts": item.attempts + 1,
            "queue_seconds": item.queue_us / 1e6,
            "throttled_seconds": 0.0,
            "provider_seconds": 0.1,
            "provider_task_id": None,
            "revised_prompt": None,
            "cost": None,
        }
    )


def refused(message: str = "The provider refuses this prompt.") -> Failed:
    error = {
        "kind": "moderation_input",
        "message": message,
        "http_status": 400,
        "charged": "no",
        "retryable": False,
    }
    return Failed(error)


def held() -> Held:
    return Held({"kind": "ambiguous_submit", "message": "The answer is lost.", "charged": "maybe"})


async def by_prompt(item: Claimed, job: Job) -> Outcome | None:
    """A picture, unless the prompt says what is to happen instead; None leaves the item running."""
    if job.prompt.startswith("bad"):
        return refused()
    if job.prompt.startswith("odd"):
        return held()
    if job.prompt.startswith("slow"):
        return None
    return made(item)


@asynccontextmanager
async def working(
    redis: Redis, decide: Decide = by_prompt, *, routes: tuple[str, ...] = ("default",)
) -> AsyncIterator[Installation]:
    """While this is open, what is sent is taken, and every item ends as `decide` says."""
    installation = Installation(redis, routes=routes)
    stop = asyncio.Event()
    task = asyncio.create_task(_work(installation, decide, routes, stop))
    try:
        yield installation
    finally:
        stop.set()
        await task


async def _work(
    installation: Installation, decide: Decide, routes: tuple[str, ...], stop: asyncio.Event
) -> None:
    while not stop.is_set():
        await installation.take_all()
        for route in routes:
            for item in await installation.claim(10, route):
                outcome = await decide(item, Job.from_spec(item.spec))
                if outcome is not None:
                    await installation.queue.settle(item, outcome)
        await asyncio.sleep(LOOK_S)
