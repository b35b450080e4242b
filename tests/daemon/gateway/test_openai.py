"""The door for clients of OpenAI: their fields, their errors, their repetitions, their streams, and tasks to poll."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
from redis.asyncio import Redis

from daemon.contract import Job
from daemon.gateway.openai import images as door_of_openai
from daemon.gateway.openai import stream
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Failed, Outcome
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.gateway.test_pictures import png
from tests.daemon.harness import eventually
from tests.daemon.live import by_prompt, image_key, made, picture
from tests.servers import RedisServer

PROMPT = {"model": "default", "prompt": "a kettle"}


class Studio:
    """What the worker saw, and what it waits for before it ends an item whose prompt is `later`."""

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
        if job.prompt == "half" and job.id.endswith(".1"):
            return await by_prompt(item, job.model_copy(update={"prompt": "bad"}))
        outcome = await by_prompt(item, job)
        if outcome is not None and outcome.name == "succeeded":
            await self.door.store.put_image(image_key(item), picture(item))
            return made(item)
        return outcome


@pytest.fixture
def studio() -> Studio:
    return Studio()


@pytest.fixture
async def shop(redis: Redis, redis_server: RedisServer, studio: Studio) -> AsyncIterator[Door]:
    async with open_door(redis, redis_server.url, decide=studio.decide) as door:
        studio.door = door
        yield door
        studio.go_on.set()


async def post(door: Door, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return await door.http.post("/v1/images/generations", json=body, headers=headers)


async def ids(redis: Redis) -> set[str]:
    found: Any = await redis.keys("pixmill:item:*")
    return {name.decode().rpartition("/")[2] for name in found}


async def test_a_request_is_answered_with_its_picture(shop: Door, studio: Studio) -> None:
    answer = await post(shop, {**PROMPT, "size": "1024x1024", "quality": "high", "output_format": "webp"})
    assert answer.status_code == 200
    body = answer.json()
    assert base64.b64decode(body["data"][0]["b64_json"]).startswith(b"picture of default//img-")
    assert isinstance(body["created"], int)
    (job,) = studio.jobs
    assert (job.route, job.size, job.params, job.output.format) == (
        "default",
        "1024x1024",
        {"quality": "high"},
        "webp",
    )


async def test_an_address_comes_where_it_is_wanted(shop: Door) -> None:
    (entry,) = (await post(shop, {**PROMPT, "response_format": "url"})).json()["data"]
    assert (await shop.http.get(entry["url"])).content.startswith(b"picture of")


async def test_a_model_may_be_a_route_or_the_model_of_one(shop: Door) -> None:
    assert [(await post(shop, {**PROMPT, "model": name})).status_code for name in ("default", "model-1")] == [
        200,
        200,
    ]
    unknown = await post(shop, {**PROMPT, "model": "gpt-9"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert unknown.json()["error"]["type"] == "invalid_request_error"


async def test_what_means_the_default_is_not_sent_on(shop: Door, studio: Studio) -> None:
    await post(shop, {**PROMPT, "size": "auto", "quality": "auto", "background": None, "user": "u-1"})
    (job,) = studio.jobs
    assert (job.size, job.params, job.metadata) == (None, None, {"user": "u-1"})


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "default"}, "prompt", "invalid"),
        ({**PROMPT, "n": 11}, "n", "invalid"),
        ({**PROMPT, "n": "2"}, "n", "invalid"),
        ({**PROMPT, "qualty": "high"}, "qualty", "unknown_parameter"),
        ({**PROMPT, "response_format": "png"}, "response_format", "invalid"),
        ({**PROMPT, "stream": 1}, "stream", "invalid"),
        ({**PROMPT, "size": "8192x8192"}, "size", "unsupported"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_stored(
    shop: Door, redis: Redis, body: dict[str, Any], param: str, code: str
) -> None:
    answer = await post(shop, body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert await ids(redis) == set()


async def test_a_moderated_prompt_is_the_callers_matter_and_a_fault_is_not(shop: Door) -> None:
    refused = await post(shop, {**PROMPT, "prompt": "bad"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "moderation_blocked")
    failed = await post(shop, {**PROMPT, "prompt": "refused"})
    assert (failed.status_code, failed.json()["error"]["type"]) == (502, "server_error")


async def test_pictures_that_were_made_come_though_another_failed(shop: Door) -> None:
    answer = await post(shop, {**PROMPT, "prompt": "half", "n": 3})
    assert (answer.status_code, len(answer.json()["data"])) == (200, 2)
    assert answer.headers["x-pixmill-failed"] == "1"


async def test_a_request_that_takes_too_long_is_told_where_to_poll(
    shop: Door, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_of_openai, "WAIT_S", 0.05)
    answer = await post(shop, {**PROMPT, "prompt": "later"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "still_running")
    assert answer.headers["x-should-retry"] == "false"
    address = answer.headers["location"]
    assert (await shop.http.get(address)).json()["status"] == "processing"
    studio.go_on.set()

    async def completed() -> Any:
        task = (await shop.http.get(address)).json()
        return task["status"] == "completed" and task

    task = await eventually(completed)
    assert (await shop.http.get(task["image_url"])).content.startswith(b"picture of")
    assert task["result"]["data"][0]["url"] == task["image_url"]
    assert {
        "id",
        "task_id",
        "object",
        "http_status",
        "created_at",
        "completed_at",
        "expires_at",
    } <= task.keys()


@pytest.mark.parametrize("how", ["address", "preference"])
async def test_a_caller_that_polls_gets_a_task_at_once(shop: Door, how: str) -> None:
    if how == "address":
        answer = await shop.http.post("/v1/images/generations/async", json=PROMPT)
    else:
        answer = await post(shop, PROMPT, prefer="respond-async")
    assert (answer.status_code, answer.json()["object"]) == (202, "image.generation.task")
    assert answer.headers["location"] == answer.json()["poll_url"]


async def test_a_failed_task_has_its_error(shop: Door) -> None:
    begun = await shop.http.post("/v1/images/generations/async", json={**PROMPT, "prompt": "bad"})

    async def failed() -> Any:
        task = (await shop.http.get(begun.json()["poll_url"])).json()
        return task["status"] == "failed" and task

    task = await eventually(failed)
    assert (task["http_status"], task["error"]["code"]) == (400, "moderation_blocked")


@pytest.mark.parametrize("ident", ["nobody", "%00", "a" * 129])
async def test_an_unknown_task_is_not_found(shop: Door, ident: str) -> None:
    answer = await shop.http.get(f"/v1/images/tasks/{ident}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_repetition_joins_the_job_of_its_first_send(shop: Door, redis: Redis) -> None:
    for count in (0, 1, 2):
        await post(shop, PROMPT, **{"x-stainless-retry-count": str(count)})
    assert len(await ids(redis)) == 1


async def test_equal_requests_that_are_no_repetition_are_two_jobs(shop: Door, redis: Redis) -> None:
    for count in ("0", "0"):
        await post(shop, PROMPT, **{"x-stainless-retry-count": count})
    assert len(await ids(redis)) == 2


async def test_two_repetitions_of_equal_requests_join_two_jobs(shop: Door, redis: Redis) -> None:
    for count in ("0", "0", "1", "1", "2", "2"):
        await post(shop, PROMPT, **{"x-stainless-retry-count": count})
    assert len(await ids(redis)) == 2


async def test_a_repetition_of_other_content_is_new_work(shop: Door, redis: Redis) -> None:
    await post(shop, PROMPT, **{"x-stainless-retry-count": "0"})
    await post(shop, {**PROMPT, "prompt": "a pot"}, **{"x-stainless-retry-count": "1"})
    assert len(await ids(redis)) == 2


async def test_a_job_that_ended_long_ago_is_not_joined(shop: Door, redis: Redis) -> None:
    await post(shop, PROMPT, **{"x-stainless-retry-count": "0"})
    (name,) = await redis.keys("pixmill:item:*")
    before_us = int(await redis.hget(name, "finished_us") or 0) - 601_000_000
    await redis.hset(name, "finished_us", str(before_us))
    await post(shop, PROMPT, **{"x-stainless-retry-count": "1"})
    assert len(await ids(redis)) == 2


async def test_an_idempotency_key_names_the_job(shop: Door, redis: Redis) -> None:
    for _ in range(2):
        assert (await post(shop, PROMPT, **{"idempotency-key": "order-7"})).status_code == 200
    assert await ids(redis) == {f"i-{hashlib.sha256(b'order-7').hexdigest()[:26]}"}
    other = await post(shop, {**PROMPT, "prompt": "a pot"}, **{"idempotency-key": "order-7"})
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")


async def frames(door: Door, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The events of a stream, and its signs of life as `ping`."""
    found: list[tuple[str, Any]] = []
    async with door.http.stream("POST", "/v1/images/generations", json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = (await answer.aread()).decode()
    for frame in text.split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in frame.split("\n"))
        found.append((lines["event"], orjson.loads(lines["data"])) if "event" in lines else ("ping", None))
    return found


async def test_a_stream_has_each_picture_as_an_event(shop: Door) -> None:
    events = [
        (kind, data) for kind, data in await frames(shop, {**PROMPT, "n": 2, "size": "1024x1024"}) if data
    ]
    assert [kind for kind, _ in events] == ["image_generation.completed"] * 2
    assert all(data["type"] == "image_generation.completed" for _, data in events)
    assert all(base64.b64decode(data["b64_json"]).startswith(b"picture of") for _, data in events)
    assert events[0][1]["size"] == "1024x1024"


async def test_a_stream_shows_signs_of_life(
    shop: Door, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK_S", 0.01)
    monkeypatch.setattr(stream, "PING_S", 0.02)
    body, lines = {**PROMPT, "prompt": "later", "stream": True}, list[str]()
    async with shop.http.stream("POST", "/v1/images/generations", json=body) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if lines.count(": ping") == 3:
                studio.go_on.set()
    assert "event: image_generation.completed" in lines


async def test_a_stream_ends_with_the_error_of_a_job_without_pictures(shop: Door) -> None:
    kind, data = (await frames(shop, {**PROMPT, "prompt": "bad"}))[-1]
    assert (kind, data["error"]["code"]) == ("error", "moderation_blocked")


async def edit(door: Door, files: list[tuple[str, Any]], **fields: str) -> httpx2.Response:
    return await door.http.post("/v1/images/edits", data={**PROMPT, **fields}, files=files)


async def test_an_edit_sends_its_pictures_as_inputs(shop: Door, studio: Studio) -> None:
    pictures = [("image[]", ("a.png", png(), "image/png")), ("image[]", ("b.png", png(48), "image/png"))]
    answer = await edit(shop, [*pictures, ("mask", ("m.png", png(16), "image/png"))], n="2", quality="low")
    assert (answer.status_code, len(answer.json()["data"])) == (200, 2)
    job = studio.jobs[0]
    assert [one.role for one in job.inputs or []] == ["image", "image", "mask"]
    assert await shop.store.get((job.inputs or [])[1].object or "") == png(48)
    assert job.params == {"quality": "low"}


@pytest.mark.parametrize(
    ("files", "fields", "param"),
    [
        ([], {}, "image"),
        ([("mask", ("m.png", png(), "image/png"))], {}, "image"),
        ([("image", ("a.txt", b"no picture", "image/png"))], {}, "image"),
        ([("image", ("a.png", png(), "image/png")), ("photo", ("b.png", png(), "image/png"))], {}, "photo"),
        ([("image", ("a.png", png(), "image/png"))], {"n": "many"}, "n"),
        ([("image", ("a.png", png(), "image/png"))], {"qualty": "low"}, "qualty"),
    ],
)
async def test_a_wrong_form_is_named_and_no_job_begins(
    shop: Door, redis: Redis, files: list[tuple[str, Any]], fields: dict[str, str], param: str
) -> None:
    answer = await edit(shop, files or [("x", ("", b""))], **fields)
    assert answer.status_code in (400, 415)
    if answer.status_code == 400 and files:
        assert answer.json()["error"]["param"] == param
    assert await ids(redis) == set()


async def test_a_form_that_breaks_off_is_a_400(shop: Door) -> None:
    broken = await shop.http.post(
        "/v1/images/edits",
        content=b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na kettle',
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
    unbounded = await shop.http.post(
        "/v1/images/edits", content=b"x", headers={"content-type": "multipart/form-data"}
    )
    assert unbounded.status_code == 400


async def test_an_edit_that_is_repeated_joins_its_job(shop: Door, redis: Redis) -> None:
    for count in ("0", "1"):
        await shop.http.post(
            "/v1/images/edits",
            data=PROMPT,
            files={"image": ("a.png", png(), "image/png")},
            headers={"x-stainless-retry-count": count},
        )
    assert len(await ids(redis)) == 1
