"""The bodies that tests of the door for clients of OpenAI send, and a worker that does what the prompt says."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Failed, Outcome
from pixmill.contract import Job
from tests.daemon.gateway.rig import Door
from tests.daemon.live import by_prompt, image_key, made, picture

PROMPT = {"model": "default", "prompt": "a kettle"}


class Studio:
    """The jobs that the worker saw, and the event that it waits for before it ends an item whose prompt is `later`."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.go_on = asyncio.Event()
        self.door: Door

    async def decide(self, item: Claimed, job: Job) -> Outcome | None:
        if job.prompt == "later" and not self.go_on.is_set():
            await self.go_on.wait()
        self.jobs.append(job)
        if job.prompt == "refused":
            return Failed({"kind": "provider_fault", "message": "The provider failed.", "charged": "no"})
        if job.prompt == "unpaid":
            return Failed({"kind": "billing_exhausted", "message": "No credit is left.", "charged": "no"})
        if job.prompt == "half" and job.id.endswith(".1"):
            return await by_prompt(item, job.model_copy(update={"prompt": "bad"}))
        outcome = await by_prompt(item, job)
        if outcome is not None and outcome.name == "succeeded":
            await self.door.store.put_image(image_key(item), picture(item))
            return made(item)
        return outcome


async def post(door: Door, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return await door.http.post("/v1/images/generations", json=body, headers=headers)


async def ids(redis: Redis) -> set[str]:
    found: Any = await redis.keys("pixmill:item:*")
    return {name.decode().rpartition("/")[2] for name in found}
