"""Errors in the form and with the status that clients of OpenAI act on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.gateway.callers.keys_file import add_key
from tests.daemon.gateway.openai.studio import PROMPT, ids, post
from tests.daemon.gateway.openai.test_images import edit
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.gateway.test_pictures import png
from tests.daemon.harness import eventually
from tests.servers import RedisServer


async def test_a_provider_without_credit_is_a_402(shop: Door) -> None:
    answer = await post(shop, {**PROMPT, "prompt": "unpaid"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "billing_exhausted")
    assert answer.headers["x-should-retry"] == "false"


async def test_a_job_that_waits_for_a_person_is_answered_and_not_sent_again(shop: Door) -> None:
    answer = await post(shop, {**PROMPT, "prompt": "odd"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "ambiguous_submit")
    assert answer.headers["x-should-retry"] == "false"


async def test_a_job_that_is_cancelled_is_answered_and_not_sent_again(quiet_door: Door, redis: Redis) -> None:
    waiting = asyncio.create_task(post(quiet_door, PROMPT))
    (ident,) = await eventually(lambda: ids(redis))
    assert (await quiet_door.http.post(f"/v1/jobs/{ident}/cancel")).status_code == 202
    answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "cancelled")
    assert answer.headers["x-should-retry"] == "false"


async def test_an_edit_may_be_polled(shop: Door) -> None:
    files = [("image", ("a.png", png(), "image/png"))]
    begun = await shop.http.post("/v1/images/edits/async", data=PROMPT, files=files)
    assert (begun.status_code, begun.json()["object"]) == (202, "image.generation.task")

    async def completed() -> Any:
        task = (await shop.http.get(begun.headers["location"])).json()
        return task["status"] == "completed" and task

    task = await eventually(completed)
    assert (await shop.http.get(task["image_url"])).content.startswith(b"picture of")


@pytest.mark.parametrize("kind", ["generations", "edits"])
async def test_a_task_cannot_be_streamed(shop: Door, redis: Redis, kind: str) -> None:
    address = f"/v1/images/{kind}/async"
    if kind == "edits":
        files = [("image", ("a.png", png(), "image/png"))]
        answer = await shop.http.post(address, data={**PROMPT, "stream": "true"}, files=files)
    else:
        answer = await shop.http.post(address, json={**PROMPT, "stream": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")
    assert await ids(redis) == set()


@pytest.mark.parametrize(("n", "failed"), [(3, 1), (1, 0)])
async def test_a_stream_has_the_pictures_that_were_made_and_counts_those_that_failed(
    shop: Door, n: int, failed: int
) -> None:
    body = {**PROMPT, "prompt": "half", "n": n, "stream": True}
    text = (await shop.http.post("/v1/images/generations", json=body)).text
    assert text.count("event: image_generation.completed") == n - failed
    assert text.count(": x-pixmill-failed: 1\n\n") == failed
    assert "event: error" not in text


async def test_a_full_backlog_is_a_429_of_openai(redis: Redis, redis_server: RedisServer) -> None:
    async with open_door(redis, redis_server.url, decide=None, cap=1) as door:
        assert (await post(door, PROMPT, prefer="respond-async")).status_code == 202
        for answer in (
            await post(door, PROMPT),
            await edit(door, [("image", ("a.png", png(), "image/png"))]),
        ):
            error = answer.json()["error"]
            assert (answer.status_code, error["type"]) == (429, "rate_limit_error")
            assert error["code"] == "backlog_full"
            assert int(answer.headers["retry-after"]) >= 1


async def test_a_wrong_key_and_a_small_scope_are_those_of_openai(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "reader", "shop", frozenset({"read"}))
    async with open_door(redis, redis_server.url, decide=None, keys_file=path) as door:
        wrong = await post(door, PROMPT, authorization="Bearer sk-wrong")
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
        assert wrong.headers["www-authenticate"] == "Bearer"
        small = await post(door, PROMPT, authorization=f"Bearer {key}")
        assert (small.status_code, small.json()["error"]["code"]) == (403, "missing_scope")
