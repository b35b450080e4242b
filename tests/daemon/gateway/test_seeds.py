"""The endpoints of the slide maker and of the image studio, as their callers know them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from daemon.contract import Job
from daemon.gateway.identity import id_of_key
from daemon.gateway.keys_file import add_key
from daemon.gateway.seeds import slides as door_of_slides
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.harness import eventually
from tests.daemon.live import by_prompt
from tests.servers import RedisServer

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


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
async def door(redis: Redis, redis_server: RedisServer, room: Room) -> AsyncIterator[Door]:
    async with open_door(
        redis, redis_server.url, decide=room.decide, routes=("default", "slides", "studio")
    ) as opened:
        yield opened
        room.go_on.set()


async def deck(door: Door, body: dict[str, Any] = DECK, **headers: str) -> httpx2.Response:
    return await door.http.post("/api/slide/batch/generate", json=body, headers=headers)


def with_slide(**fields: Any) -> dict[str, Any]:
    return {**DECK, "slides": [*DECK["slides"], {"id": "s3", "page_num": 3, "title": "x", **fields}]}


async def test_a_deck_is_answered_when_every_slide_is_done(door: Door, room: Room) -> None:
    answer = await deck(door)
    body = answer.json()
    assert answer.status_code == 200
    assert {"batch_id", "total_slides", "successful", "failed", "total_time", "results"} <= body.keys()
    assert (body["total_slides"], body["successful"], body["failed"]) == (2, 2, 0)
    first = body["results"][0]
    assert first.keys() == RESULT
    assert (first["slide_id"], first["page_num"], first["title"]) == ("s1", 1, "Kettles")
    assert (first["status"], first["error_message"]) == ("success", None)
    assert first["final_prompt"].startswith("flat")
    assert first["image_url"].endswith(f"/v1/batches/{body['batch_id']}/items/s1/images/0")
    assert isinstance(body["total_time"], float)
    assert isinstance(first["generation_time"], float)
    assert {(job.route, job.size) for job in room.jobs} == {("slides", "16:9")}


async def test_a_failed_slide_has_its_reason_and_its_time(door: Door) -> None:
    body = (await deck(door, with_slide(visual_desc="bad"))).json()
    assert (body["successful"], body["failed"], body["status"]) == (2, 1, "completed_with_errors")
    failed = body["results"][2]
    assert (failed["status"], failed["image_url"]) == ("failed", None)
    assert failed["error_message"] == "The provider refuses this prompt."
    assert isinstance(failed["generation_time"], float)


async def test_a_deck_that_takes_too_long_is_answered_with_what_is_done(
    door: Door, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_of_slides, "WAIT_S", 0.3)
    answer = await deck(door, with_slide(visual_desc="later"))
    body = answer.json()
    assert (answer.status_code, body["status"]) == (202, "running")
    assert {"batch_id", "total_slides", "successful", "failed", "total_time", "results"} <= body.keys()
    assert answer.headers["location"].endswith(body["batch_id"])
    assert (await door.http.get("/api/slide/batch/active-count")).json() == {"active_batches": 1}
    room.go_on.set()

    async def done() -> Any:
        status = await door.http.post("/api/slide/batch/status", json={"batch_id": body["batch_id"]})
        return status.json()["status"] == "completed" and status.json()

    status = await eventually(done)
    assert {"status", "progress", "total_slides", "completed_slides", "successful", "failed"} <= status.keys()
    assert {"estimated_remaining_time", "results"} <= status.keys()
    assert (status["progress"], status["completed_slides"], status["estimated_remaining_time"]) == (
        1.0,
        3,
        0.0,
    )
    assert (await door.http.get("/api/slide/batch/active-count")).json() == {"active_batches": 0}


@pytest.mark.parametrize("preference", ["respond-async", "wait=0"])
async def test_a_caller_that_polls_is_answered_at_once(door: Door, room: Room, preference: str) -> None:
    answer = await deck(door, with_slide(visual_desc="later"), prefer=preference)
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    room.go_on.set()


async def test_the_same_deck_again_is_the_same_batch_while_it_runs_and_a_minute_longer(
    door: Door, redis: Redis, room: Room
) -> None:
    body = with_slide(visual_desc="later")
    first, second = [(await deck(door, body, prefer="respond-async")).json()["batch_id"] for _ in range(2)]
    room.go_on.set()
    third = (await deck(door, body)).json()["batch_id"]
    assert first == second == third
    finished_us = int(await redis.hget(f"pixmill:batch:default/{first}", "finished_us") or 0)
    await redis.hset(f"pixmill:batch:default/{first}", "finished_us", str(finished_us - 61_000_000))
    assert (await deck(door, body)).json()["batch_id"] != first


async def test_an_idempotency_key_names_the_batch(door: Door) -> None:
    ids = {(await deck(door, DECK, **{"idempotency-key": "deck-1"})).json()["batch_id"] for _ in range(2)}
    assert len(ids) == 1
    assert ids.pop().startswith("i-")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_workers": 0}, "max_workers"),
        ({"max_workers": 11}, "max_workers"),
        ({"max_workers": "3"}, "max_workers"),
        ({"slides": []}, "slides"),
        ({"slides": "x"}, "slides"),
        ({"slides": [{"id": "a"}]}, "slides.0"),
        ({"slides": [{"title": "x"}]}, "slides.0.id"),
        ({"slides": [{"id": "a", "title": "x"}, {"id": "a", "title": "y"}]}, "items.1.id"),
        ({"aspect_ratio": "wide"}, "defaults.size"),
        ({"aspect_ratio": {}}, "defaults.size"),
        ({"style_prompt": 3}, "style_prompt"),
    ],
)
async def test_a_wrong_deck_names_its_field_and_nothing_is_stored(
    door: Door, redis: Redis, change: dict[str, Any], field: str
) -> None:
    answer = await deck(door, {**DECK, **change})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert await redis.keys("pixmill:item:*") == []


@pytest.mark.parametrize("body", [{}, {"batch_id": 3}])
async def test_a_status_needs_a_batch(door: Door, body: dict[str, Any]) -> None:
    assert (await door.http.post("/api/slide/batch/status", json=body)).status_code == 422


async def test_the_status_of_an_unknown_batch_is_not_found(door: Door) -> None:
    answer = await door.http.post("/api/slide/batch/status", json={"batch_id": "../x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_studio_payload_becomes_a_batch_and_its_keys_are_dropped(door: Door, redis: Redis) -> None:
    answer = await door.http.post("/api/image-studio/jobs", json=STUDIO)
    body = answer.json()
    assert (answer.status_code, body["job_id"], body["total_pictures"]) == (202, "job-1", 1)
    assert any("api_key" in warning for warning in body["warnings"])
    view = await door.gateway.records.group("u-7/job-1")
    assert view is not None
    kept = [await redis.dump(key) for key in await redis.keys("*")]
    assert not any(b"planted" in (dump or b"") for dump in kept)
    assert (await door.http.post("/api/image-studio/jobs", json=STUDIO)).json()["job_id"] == "job-1"


async def test_with_a_key_the_tenant_is_the_keys_and_the_user_is_metadata(
    redis: Redis, redis_server: RedisServer, tmp_path: Any
) -> None:
    keys = tmp_path / "keys.json"
    key = add_key(keys, "studio", "shop", frozenset({"submit"}))
    async with open_door(redis, redis_server.url, routes=("studio",), keys_file=keys) as door:
        headers = {"authorization": f"Bearer {key}"}
        assert (
            await door.http.post("/api/image-studio/jobs", json=STUDIO, headers=headers)
        ).status_code == 202
        view = await door.gateway.records.group("shop/job-1")
        assert view is not None
        assert view.metadata["user_id"] == "u-7"


async def test_a_studio_payload_may_be_named_by_its_key_alone(door: Door) -> None:
    unnamed = {name: value for name, value in STUDIO.items() if name != "job_id"}
    key = {"idempotency-key": "order-1"}
    answers = [await door.http.post("/api/image-studio/jobs", json=unnamed, headers=key) for _ in range(2)]
    assert {answer.json()["job_id"] for answer in answers} == {id_of_key("order-1")}
    both = await door.http.post("/api/image-studio/jobs", json=STUDIO, headers=key)
    assert (both.status_code, both.json()["field"]) == (422, "job_id")


async def test_a_studio_payload_may_have_two_mebibytes(door: Door) -> None:
    pictures = [{"url": f"https://shop.example/{k}?{'x' * 400}", "stem": str(k)} for k in range(1000)]
    options = {**STUDIO["options"], "sku_images_map": {"sku1": pictures}}
    answer = await door.http.post("/api/image-studio/jobs", json={**STUDIO, "options": options})
    assert (answer.status_code, answer.json()["total_pictures"]) == (202, 1000)


async def test_a_wrong_studio_payload_names_its_field(door: Door, redis: Redis) -> None:
    answer = await door.http.post("/api/image-studio/jobs", json={**STUDIO, "mode": "x"})
    assert (answer.status_code, answer.json()["field"]) == (422, "mode")
    assert await redis.keys("pixmill:batch:*") == []


async def test_a_studio_payload_names_uploads_of_its_own_user_only(door: Door) -> None:
    async def sent(key: str) -> tuple[int, Any]:
        options = {**STUDIO["options"], "sku_images_map": {"sku1": [{"object": key, "stem": "1"}]}}
        answer = await door.http.post("/api/image-studio/jobs", json={**STUDIO, "options": options})
        return answer.status_code, answer.json().get("field")

    assert await sent("default/inputs/0a1b") == (422, "items.0.inputs.0.object")
    assert await sent("u-7/inputs/0a1b") == (202, None)
