"""The order in which items are claimed: tenants alternate, batches of a tenant alternate, lanes have weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Succeeded
from pixmill.records.keys import Uid
from tests.daemon.harness import Installation


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


def batches(items: list[Claimed]) -> list[str]:
    return [Uid.parse(item.uid).batch for item in items]


async def test_four_pictures_behind_five_thousand_wait_for_at_most_eight(
    installation: Installation,
) -> None:
    for part in range(1, 6):
        items = [{"id": f"p{part}-{k}"} for k in range(1000)]
        payload = {"id": "big", "part": part, "parts": 5, "defaults": {"prompt": "x"}, "items": items}
        await installation.submit(payload, type="pixmill.batch.v1")
    assert (await installation.group("default/big"))["total"] == "5000"
    await installation.claim(3)  # it is under way when the small one comes
    await installation.batch("small", 4)

    order: list[str] = []
    while order.count("small") < 4 and len(order) < 50:
        order += batches(await installation.claim(1))
    assert order.count("small") == 4
    assert order.count("big") <= 8
    assert order.count("big") >= 3, "the small batch does not push the big one aside either"


async def test_two_tenants_alternate_with_backlogs_of_any_size(installation: Installation) -> None:
    await installation.batch("b1", 50, tenant="anna")
    await installation.batch("b2", 6, tenant="bert")
    tenants = [Uid.parse(item.uid).tenant for item in await installation.claim(12)]
    assert tenants.count("anna") == tenants.count("bert") == 6
    assert all(first != second for first, second in pairwise(tenants))


async def test_single_jobs_of_a_tenant_take_turns_with_its_batches(installation: Installation) -> None:
    await installation.batch("b1", 10)
    for k in range(3):
        await installation.submit({"id": f"single-{k}", "prompt": "x"})
    assert batches(await installation.claim(6)).count("") >= 2


async def test_lanes_are_weighted_eight_to_three_to_one_while_all_have_work(
    installation: Installation,
) -> None:
    for lane in ("low", "normal", "high"):
        await installation.batch(lane, 60, defaults={"prompt": "x", "priority": lane})
    lanes = [item.lane for item in await installation.claim(48)]
    assert {lane: lanes.count(lane) for lane in ("high", "normal", "low")} == {
        "high": 32,
        "normal": 12,
        "low": 4,
    }


async def test_a_lane_alone_gets_every_claim(installation: Installation) -> None:
    await installation.batch("b1", 5, defaults={"prompt": "x", "priority": "low"})
    assert len(await installation.claim(10)) == 5


async def test_weights_hold_over_many_small_claims_too(installation: Installation) -> None:
    for lane in ("normal", "high"):
        await installation.batch(lane, 60, defaults={"prompt": "x", "priority": lane})
    lanes = [(await installation.claim(1))[0].lane for _ in range(22)]
    assert lanes.count("high") == 16


async def test_a_batch_may_lower_its_own_concurrency_and_others_pass_it(installation: Installation) -> None:
    await installation.batch("careful", 10, max_in_flight=2)
    await installation.batch("other", 10)
    first = await installation.claim(20)
    assert batches(first).count("careful") == 2
    assert batches(first).count("other") == 10
    await installation.queue.settle(
        next(item for item in first if "careful" in item.uid), Succeeded({"images": []})
    )
    assert batches(await installation.claim(20)) == ["careful"]


async def test_a_capped_batch_alone_is_finished_two_by_two(installation: Installation) -> None:
    await installation.batch("careful", 7, max_in_flight=2)
    done = 0
    while items := await installation.claim(10):
        assert len(items) <= 2
        for item in items:
            await installation.queue.settle(item, Succeeded({"images": []}))
        done += len(items)
    assert done == 7
    assert (await installation.group("default/careful"))["state"] == "completed"


async def test_cancelled_items_are_stepped_over_and_lag_stays_known(installation: Installation) -> None:
    await installation.batch("gone", 700)
    await installation.batch("kept", 2)
    await installation.submit({"batch": "gone"}, type="pixmill.cancel.v1")
    claimed: list[Claimed] = []
    more = True
    while more:
        claim = await installation.queue.claim("default", 10)
        more, claimed = claim.more, claimed + claim.items
    assert batches(claimed) == ["kept", "kept"]
    groups = await installation.redis.xinfo_groups(installation.keys.stream("default", "normal"))
    assert groups[0]["lag"] == 0


@pytest.mark.parametrize("cap", [None, 2])
async def test_entries_that_vanish_from_a_ready_stream_are_counted_and_queued_anew(
    installation: Installation, cap: int | None
) -> None:
    await installation.batch("b1", 5, **({} if cap is None else {"max_in_flight": cap}))
    await installation.batch("b2", 5, tenant="anna")
    await installation.redis.delete(installation.keys.stream("default", "normal"))
    found: list[Claimed] = []
    lost = 0
    for _ in range(10):
        claim = await installation.queue.claim("default", 10)
        found += claim.items
        lost += claim.lost
        for item in claim.items:
            await installation.queue.settle(item, Succeeded({"images": []}))
    assert lost == 2
    assert len({item.uid for item in found}) == len(found) == 10


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_a_capped_batch_goes_on_in_its_other_lane(installation: Installation, end: str) -> None:
    first = {"id": "first", "priority": "high"}
    if end == "expire":
        first["expires_at"] = "2020-01-01T00:00:00Z"
    items = [first, {"id": "second", "priority": "low"}]
    payload = {"id": "b1", "max_in_flight": 1, "defaults": {"prompt": "x"}, "items": items}
    await installation.submit(payload, type="pixmill.batch.v1")
    if end == "cancel":
        await installation.submit({"batch": "b1", "job": "first"}, type="pixmill.cancel.v1")
    found = [item.uid for _ in range(3) for item in await installation.claim(5)]
    assert found == ["default/b1/second"]


async def test_a_capped_batch_goes_on_in_a_route_whose_name_ends_that_of_another(redis: Redis) -> None:
    installation = Installation(redis, routes=("ab", "b"))
    items = [{"id": "first", "route": "ab"}, {"id": "second", "route": "b"}]
    payload = {"id": "b1", "max_in_flight": 1, "defaults": {"prompt": "x"}, "items": items}
    await installation.submit(payload, type="pixmill.batch.v1")
    (first,) = await installation.claim(2, "ab")
    assert await installation.claim(2, "b") == []
    await installation.queue.settle(first, Succeeded({"images": []}))
    assert len(await installation.claim(2, "b")) == 1
