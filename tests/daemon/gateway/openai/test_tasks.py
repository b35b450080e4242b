"""Pictures that take longer than one request: an address to poll."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.gateway.openai import images as door_of_openai
from daemon.gateway.openai.results import failure_of
from tests.daemon.gateway.openai.studio import PROMPT, Studio, post
from tests.daemon.gateway.rig import Door
from tests.daemon.harness import eventually


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


async def test_a_request_that_waits_when_the_server_stops_may_be_sent_again(shop: Door) -> None:
    waiting = asyncio.create_task(post(shop, {**PROMPT, "prompt": "later"}))

    async def waits() -> bool:
        return len(shop.gateway.waiting) == 1

    await eventually(waits)
    await shop.gateway.end_streams()
    answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "restarting")
    assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize("how", ["address", "preference", "preferences"])
async def test_a_caller_that_polls_gets_a_task_at_once(shop: Door, how: str) -> None:
    if how == "address":
        answer = await shop.http.post("/v1/images/generations/async", json=PROMPT)
    else:
        more = ", wait=5" if how == "preferences" else ""
        answer = await post(shop, PROMPT, prefer=f"respond-async{more}")
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


def test_a_job_without_records_of_pictures_has_a_reason() -> None:
    assert failure_of([]).code == "expired"
