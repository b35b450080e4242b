"""A claim that requests its permit in the same step: one call, one item, and nothing without the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from daemon.queue.messages import Claim, PermitRequest
from daemon.queue.outcomes import Throttled
from limiter import Grant, Later, Limiter, NotRequested, Permit, parse_quota
from tests.daemon.harness import Installation

ERROR = {"kind": "rate_limit", "message": "Wait.", "charged": "no"}


class Desk:
    """Requests a permit and an item of the route `default` in one step."""

    def __init__(self, redis: Redis, **limits: object) -> None:
        self.installation = Installation(redis)
        self.limiter = Limiter(redis, "pixmill")
        self.quota = parse_quota("q", limits)
        self.claims: list[Claim] = []

    async def request(
        self, request_id: str = "r", *, early_s: float = 0.05, ended: Sequence[Permit] = ()
    ) -> Grant | Later:
        async def step(keys: Sequence[str], args: Sequence[str | int], permit: Permit) -> Sequence[Any]:
            wanted = PermitRequest(keys, args, permit.to_json(), early_s)
            self.claims.append(
                await self.installation.queue.claim("default", 1, intends=True, request=wanted)
            )
            return self.claims[-1].requested

        return await self.limiter.acquire(
            [self.quota], holder="w1", request_id=request_id, max_wait_s=3600, ended=ended, step=step
        )

    async def record(self, name: str = "a") -> dict[str, str]:
        return await self.installation.record(f"default//{name}")

    async def charged(self) -> int:
        return int(await self.installation.redis.zcard("pixmill:limiter:q:log:images"))


@pytest.fixture
def desk(redis: Redis) -> Desk:
    return Desk(redis, images="1/min", in_flight=4)


async def test_the_permit_the_item_and_its_intent_come_in_one_step(desk: Desk) -> None:
    await desk.installation.submit({"id": "a", "prompt": "x"})
    grant = await desk.request()
    assert isinstance(grant, Grant)
    [claim] = desk.claims
    [item] = claim.items
    record = await desk.record()
    assert (record["state"], record["intent_us"]) == ("running", record["started_us"])
    assert Permit.from_json(record["permit"]) == Permit.from_json(item.permit) == grant.permit
    assert item.intended
    assert item.intent_us is None, "it has no intent of an earlier run"
    assert not claim.more


async def test_without_work_nothing_is_requested(desk: Desk) -> None:
    with pytest.raises(NotRequested):
        await desk.request()
    assert await desk.charged() == 0


async def test_an_item_whose_slot_is_far_waits_in_its_queue(desk: Desk) -> None:
    await desk.installation.submit({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    await desk.request("first")
    grant = await desk.request("second")
    assert isinstance(grant, Grant)
    assert grant.wait_us > 50_000_000
    assert desk.claims[-1].items == []
    assert desk.claims[-1].more
    assert (await desk.record("b"))["state"] == "queued"


async def test_an_item_whose_request_is_denied_waits_in_its_queue(redis: Redis) -> None:
    desk = Desk(redis, in_flight=1)
    await desk.installation.submit({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    await desk.request("first")
    assert isinstance(await desk.request("second"), Later)
    assert (await desk.record("b"))["state"] == "queued"


async def test_a_request_that_is_repeated_claims_no_second_item(desk: Desk) -> None:
    await desk.installation.submit({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    first, again = await desk.request(), await desk.request()
    assert isinstance(first, Grant)
    assert isinstance(again, Grant)
    assert first.permit.grant_id == again.permit.grant_id
    assert [len(claim.items) for claim in desk.claims] == [1, 0]
    assert await desk.charged() == 1


async def test_an_item_that_has_something_to_prepare_notes_its_intent_later(desk: Desk) -> None:
    await desk.installation.submit(
        {"id": "a", "prompt": "x", "inputs": [{"url": "https://pictures.example/a.png"}]}
    )
    await desk.request()
    [item] = desk.claims[0].items
    assert not item.intended
    assert not (await desk.record()).get("intent_us")


async def test_an_item_that_ran_before_notes_its_intent_later(desk: Desk) -> None:
    await desk.installation.submit({"id": "a", "prompt": "x"})
    [item] = await desk.installation.claim()
    await desk.installation.queue.settle(item, Throttled(ERROR, 0), "no")
    await desk.request()
    [item] = desk.claims[0].items
    assert not item.intended


async def test_an_item_whose_reply_was_lost_is_put_back_without_its_intent(desk: Desk) -> None:
    await desk.installation.submit({"id": "a", "prompt": "x"})
    await desk.request()
    assert await desk.installation.queue.unclaim("default", []) == 1
    record = await desk.record()
    assert (record["state"], record["intent_us"]) == ("queued", "")


async def test_after_a_new_life_of_the_server_nothing_is_requested_until_it_is_calm(redis: Redis) -> None:
    desk = Desk(redis, images="1/min")
    await desk.installation.submit({"id": "a", "prompt": "x"})
    await redis.hset("pixmill:installation", mapping={"life": "another", "life_us": 1})
    desk.installation.queue._calm_us = 60_000_000
    with pytest.raises(NotRequested):
        await desk.request()
    assert desk.claims[0].calm_s > 50
    assert await desk.charged() == 0


async def test_without_memory_nothing_is_requested_or_claimed(redis: Redis) -> None:
    desk, admin = Desk(redis, in_flight=1), redis
    await desk.installation.submit({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    first = await desk.request("first")
    assert isinstance(first, Grant)
    await admin.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            # A release needs no memory, and a script that has written goes on without any.
            await desk.request("second", ended=[first.permit])
    finally:
        await admin.config_set("maxmemory", 0)
    assert (await desk.record("b"))["state"] == "queued"
