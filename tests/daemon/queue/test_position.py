"""The position of an item equals the number of claims before it in a real queue."""

from __future__ import annotations

import random

import pytest
from redis.asyncio import Redis

from daemon.queue.position import Place, Positions, Ring, ahead_of
from pixmill.broker.streams import ranked
from pixmill.records.keys import Uid
from tests.daemon.harness import Installation


@pytest.mark.parametrize("seed", range(8))
async def test_the_number_is_the_number_of_claims_before_it(redis: Redis, seed: int) -> None:
    draw = random.Random(seed)
    installation = Installation(redis)
    for number in range(draw.randint(1, 6)):
        tenant = f"t{draw.randint(0, 2)}"
        await installation.batch(f"b{number}", draw.randint(1, 9), tenant=tenant)
        await installation.submit({"id": f"single{number}", "tenant": tenant, "prompt": "x"})
    # From the middle of a turn as well: some are claimed and running.
    await installation.claim(draw.randint(0, 5))
    waiting = await ranked(redis, installation.keys.waiting("default"), 0, 1000)
    positions = Positions(redis, installation.keys)
    found = {uid: await positions.place(Uid.parse(uid), "default", "normal") for uid in waiting}
    order = [item.uid for item in await installation.claim(100)]
    assert sorted(order) == sorted(waiting)
    assert found == {uid: Place(ahead, 0) for ahead, uid in enumerate(order)}


async def test_other_lanes_count_as_beside_and_running_items_have_no_place(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit(
        {"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}, {"id": "c", "prompt": "x", "priority": "high"}
    )
    positions = Positions(redis, installation.keys)
    assert await positions.place(Uid("default", "", "b"), "default", "normal") == Place(1, 1)
    assert await positions.place(Uid("default", "", "c"), "default", "high") == Place(0, 2)
    await installation.claim(3)
    assert await positions.place(Uid("default", "", "b"), "default", "normal") is None


async def test_a_place_by_an_earlier_reading_knows_what_came_and_went(redis: Redis) -> None:
    installation = Installation(redis)
    positions = Positions(redis, installation.keys)

    async def ahead(ident: str) -> int | None:
        place = await positions.place(Uid("default", "", ident), "default", "normal", max_age_s=60)
        return None if place is None else place.ahead

    await installation.submit({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    assert [await ahead("a"), await ahead("b")] == [0, 1]
    await installation.submit({"id": "other", "prompt": "x", "tenant": "t2"}, {"id": "c", "prompt": "x"})
    assert await ahead("c") == 3
    await installation.claim(1)
    assert await ahead("a") is None


async def test_the_first_of_a_batch_is_its_next_claim(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 3)
    await installation.batch("b2", 3)
    positions = Positions(redis, installation.keys)
    for claimed in range(3):
        await installation.claim(claimed)
        first = {b: str(await positions.first_of("default", b, "default", "normal")) for b in ("b1", "b2")}
        ahead = {b: await positions.place(Uid.parse(uid), "default", "normal") for b, uid in first.items()}
        assert Place(0, 0) in ahead.values()
    order = [item.uid for item in await installation.claim(10)]
    assert first == {b: next(uid for uid in order if f"/{b}/" in uid) for b in first}
    assert await positions.first_of("default", "b3", "default", "normal") is None


def test_uncounted_tenants_count_as_having_enough_items() -> None:
    ring = Ring(["a", "b"], {"a": {"": 10}})
    assert ahead_of(ring, "a", "", 4) == 5 + 5
    assert ahead_of(Ring(["a", "b"], {"a": {"": 10}, "b": {}}), "a", "", 4) == 5 + 1
