"""The bodies that callers of the slide maker and of the studio send and read, and a worker that can wait."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from pixmill.contract import Job
from tests.daemon.gateway.rig import Door
from tests.daemon.live import by_prompt

DECK: dict[str, Any] = {
    "slides": [
        {
            "id": "s1",
            "page_num": 1,
            "type": "cover",
            "title": "Kettles",
            "content_text": "",
            "visual_desc": "a kettle",
        },
        {
            "id": "s2",
            "page_num": 2,
            "type": "text",
            "title": "Pots",
            "content_text": "of clay",
            "visual_desc": "a pot",
        },
    ],
    "style_prompt": "flat",
    "max_workers": 3,
    "aspect_ratio": "16:9",
}


RESULT = {
    "slide_id",
    "page_num",
    "title",
    "image_url",
    "final_prompt",
    "status",
    "error_message",
    "generation_time",
}


STUDIO: dict[str, Any] = {
    "job_id": "job-1",
    "user_id": "u-7",
    "mode": "batch_series_generate",
    "api_key": "sk-planted-000000000000000000000000",
    "options": {
        "sku_images_map": {"sku1": [{"url": "https://shop.example/1.png", "name": "1.png", "stem": "1"}]},
        "prompt_templates": {"main_cn": "白底", "common_cn": "电商"},
    },
}


ANSWER = {
    "batch_id",
    "session_id",
    "status",
    "total_slides",
    "completed_slides",
    "successful",
    "failed",
    "results",
}


class Room:
    """Holds slides with `later` in their prompt until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.jobs: list[Job] = []

    async def decide(self, item: Claimed, job: Job) -> Outcome | None:
        if "later" in job.prompt and not self.go_on.is_set():
            await self.go_on.wait()
        self.jobs.append(job)
        bad = job.model_copy(update={"prompt": "bad"})
        return await by_prompt(item, bad if "bad" in job.prompt else job)


async def deck(door: Door, body: dict[str, Any] = DECK, **headers: str) -> httpx2.Response:
    return await door.http.post("/api/slide/batch/generate", json=body, headers=headers)


def with_slide(**fields: Any) -> dict[str, Any]:
    return {**DECK, "slides": [*DECK["slides"], {"id": "s3", "page_num": 3, "title": "x", **fields}]}
