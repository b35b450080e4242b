"""A waiting item stands in one place, never starts before its time, and ends at its expiry, on the second and free."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.maintenance.scheduler import DUE_LOOK_S
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Cancelled, Failed, Outcome, Released, Retry, Succeeded, Throttled
from tests.daemon.harness import Installation
from tests.daemon.queue.queue_reading import read_all
from tests.daemon.virtual_time import VirtualTime, use_virtual_time

ERROR = {"kind": "provider_fault", "message": "The provider failed.", "charged": "no", "retryable": True}
DONE = Succeeded({"images": []})
MS, S = 1000, 1_000_000
NAME = "default//a"


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


@pytest.fixture
async def time(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    use_virtual_time(monkeypatch)
    time = VirtualTime(redis)
    await time.advance()
    return time


async def submit(installation: Installation, **fields: Any) -> None:
    await installation.submit({"id": "a", "prompt": "x", **fields})


async def started(installation: Installation, **fields: Any) -> Claimed:
    await submit(installation, **fields)
    (item,) = await installation.claim()
    return item


async def state(installation: Installation) -> str:
    return (await installation.record(NAME))["state"]


async def places(installation: Installation) -> list[str]:
    return (await read_all(installation.redis, installation.keys)).places.get(NAME, [])


# To the second. The scheduler looks at least this often, and knows how long it is until the next due time.


async def test_a_not_before_starts_at_its_time_and_not_a_millisecond_sooner(
    installation: Installation, time: VirtualTime
) -> None:
    await submit(installation, not_before=time.at(90))
    await time.advance(90 * S - MS)
    assert await installation.queue.due() == (0, 0.001)
    assert await installation.claim() == []
    await time.advance(MS)
    assert await installation.queue.due() == (1, None)
    assert len(await installation.claim()) == 1
    assert DUE_LOOK_S <= 0.5


@pytest.mark.parametrize("field", ["expires_at", "deadline"])
async def test_a_waiting_item_may_start_until_its_expiry_and_then_ends_free(
    installation: Installation, time: VirtualTime, field: str
) -> None:
    await submit(installation, **{field: time.at(90)})
    await time.advance(90 * S - MS)
    assert await installation.queue.due() == (0, 0.001)
    assert await state(installation) == "queued"
    await time.advance(MS)
    await installation.queue.due()
    assert await state(installation) == "expired"
    assert await installation.claim() == []


async def test_a_claim_at_the_very_expiry_starts_nothing(
    installation: Installation, time: VirtualTime
) -> None:
    await submit(installation, expires_at=time.at(90))
    await time.advance(90 * S)
    assert await installation.claim() == [], "nobody had looked for what is due"
    assert await state(installation) == "expired"


async def test_an_item_started_before_its_expiry_may_end_after_it(
    installation: Installation, time: VirtualTime
) -> None:
    item = await started(installation, expires_at=time.at(90))
    await time.advance(91 * S)
    assert (await installation.queue.due())[0] == 0
    assert await installation.queue.settle(item, DONE) == "succeeded"


@pytest.mark.parametrize("outcome", [Retry(ERROR, 300), Throttled(ERROR, 300), Released()])
async def test_an_item_that_waits_again_expires_even_if_due_while_it_ran(
    installation: Installation, time: VirtualTime, outcome: Outcome
) -> None:
    item = await started(installation, expires_at=time.at(90))
    await time.advance(91 * S)
    await installation.queue.due()
    await installation.queue.settle(item, outcome)
    await installation.queue.due()
    assert await state(installation) == "expired", "it could never start again"


async def test_a_retried_item_still_expires_at_its_time(
    installation: Installation, time: VirtualTime
) -> None:
    item = await started(installation, expires_at=time.at(90))
    await installation.queue.settle(item, Failed(ERROR))
    await installation.orders.retry("item", NAME, ["failed"])
    await time.advance(90 * S)
    await installation.queue.due()
    assert await state(installation) == "expired"


@pytest.mark.parametrize("outcome", [DONE, Failed(ERROR), Cancelled()])
async def test_an_ended_item_is_no_longer_due(
    installation: Installation, time: VirtualTime, outcome: Outcome
) -> None:
    item = await started(installation, expires_at=time.at(90))
    await installation.queue.settle(item, outcome)
    assert await installation.queue.due() == (0, None)


# In one place.


async def test_a_delayed_item_that_expired_is_queued_once_by_a_retry(
    installation: Installation, time: VirtualTime
) -> None:
    item = await started(installation, expires_at=time.at(90))
    await installation.queue.settle(item, Retry(ERROR, 300))
    await time.advance(90 * S)
    await installation.queue.due()
    assert await places(installation) == []
    await installation.orders.retry("item", NAME, ["expired"])
    assert await places(installation) == ["ring"]


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_an_item_that_ended_in_its_queue_is_there_once_after_a_retry(
    installation: Installation, time: VirtualTime, end: str
) -> None:
    await submit(installation, expires_at=time.at(90))
    if end == "cancel":
        await installation.orders.cancel("item", NAME, ["queued"])
    else:
        await time.advance(90 * S)
        await installation.queue.due()
    assert await places(installation) == ["ring"], "its tombstone"
    await installation.orders.retry("item", NAME, ["cancelled", "expired"])
    assert await places(installation) == ["ring"]
    (item,) = await installation.claim(5)
    await installation.queue.settle(item, Retry(ERROR, 300))
    assert await places(installation) == ["delayed"]
    assert await installation.claim(5) == [], "a second entry of it would start it now"


async def test_a_tombstone_that_a_claim_has_stepped_over_is_no_place(
    installation: Installation, time: VirtualTime
) -> None:
    await submit(installation)
    await installation.orders.cancel("item", NAME, ["queued"])
    assert await installation.claim(5) == []
    await installation.orders.retry("item", NAME, ["cancelled"])
    assert [item.uid for item in await installation.claim(5)] == [NAME]


@pytest.mark.parametrize("states", [["running"], ["queued"], ["retry_wait"], ["succeeded"]])
async def test_a_retry_of_an_unended_or_succeeded_item_changes_nothing(
    installation: Installation, time: VirtualTime, states: list[str]
) -> None:
    item = await started(installation)
    changed = await installation.orders.retry("item", NAME, states)
    assert (changed.ended_or_queued, await places(installation)) == (0, ["pending"])
    assert await installation.queue.settle(item, DONE) == "succeeded"
    assert (await installation.orders.retry("item", NAME, states)).ended_or_queued == 0
    assert await installation.claim(5) == []
