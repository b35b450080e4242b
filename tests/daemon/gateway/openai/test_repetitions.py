"""A request that a client sends again by itself joins the job of its first send."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from daemon.gateway.openai.begin import begin
from daemon.gateway.work.pictures import keep_input
from tests.daemon.gateway.openai.studio import PROMPT, ids, post
from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_pictures import png


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


async def repeated_edit(door: Door, count: int) -> httpx2.Response:
    return await door.http.post(
        "/v1/images/edits",
        data=PROMPT,
        files={"image": ("a.png", png(), "image/png")},
        headers={"x-stainless-retry-count": str(count)},
    )


async def test_an_edit_that_is_repeated_joins_its_job(shop: Door, redis: Redis) -> None:
    for count in (0, 1):
        await repeated_edit(shop, count)
    assert len(await ids(redis)) == 1


async def test_a_send_that_is_slower_than_its_repetition_begins_no_work(
    shop: Door, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(*given: Any) -> Any:
        if not reached.is_set():
            reached.set()
            await go_on.wait()
        return await keep_input(*given)

    async def begun(*given: Any) -> Any:
        try:
            return await begin(*given)
        finally:
            over.set()

    monkeypatch.setattr("daemon.gateway.openai.edits.keep_input", slow)
    monkeypatch.setattr("daemon.gateway.openai.images.begin", begun)
    first = asyncio.create_task(repeated_edit(shop, 0))
    await reached.wait()
    first.cancel()
    await asyncio.wait([first])
    assert (await repeated_edit(shop, 1)).status_code == 200
    over.clear()
    go_on.set()
    await over.wait()
    assert len(await ids(redis)) == 1
