"""A dead letter is retried once, unchanged, even if several people retry it several times."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from daemon.queue.dead_letters import OF_ITEMS, PAGE, DeadLetter, DeadLetters
from daemon.queue.outcomes import Retry
from tests.daemon.harness import Installation

BUSY = {"kind": "provider_fault", "message": "Busy.", "charged": "no", "retryable": True}


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


@pytest.fixture
def letters(installation: Installation) -> DeadLetters:
    return DeadLetters(installation.redis, installation.keys)


async def failed(installation: Installation, letters: DeadLetters) -> DeadLetter:
    """Let the one item that waits use up its only attempt."""
    (item,) = await installation.claim()
    await installation.queue.settle(item, Retry(BUSY, 0))
    return (await letters.newest(1))[0]


async def test_concurrent_retries_of_a_letter_send_it_once(
    installation: Installation, letters: DeadLetters
) -> None:
    await installation.add("{not json")
    await installation.take_all()
    (letter,) = await letters.newest(1)
    outcomes = await asyncio.gather(*(letters.retry(letter) for _ in range(8)))
    assert sorted(outcomes) == ["gone"] * 7 + ["resent"]
    assert await installation.redis.xlen(installation.keys.jobs) == 1


async def test_the_original_is_sent_as_it_was(installation: Installation, letters: DeadLetters) -> None:
    """Its own fields may have the names of ours."""
    fields = {"type": "pixmill.job.v9", "reason": "mine", "at": "noon", "ids": "7", "traceparent": "00-1"}
    await installation.redis.xadd(installation.keys.jobs, {"data": "{}", **fields})
    for _ in range(4):  # a type that nobody knows is left for a newer replica first
        await installation.intake.create_group()
        await installation.redis.xreadgroup("intake", "w1", {installation.keys.jobs: ">"})
        await installation.redis.xautoclaim(installation.keys.jobs, "intake", "w1", 0)
    await installation.intake.take(
        [(e.decode(), f) for e, f in await installation.redis.xrange("pixmill:jobs")]
    )
    (letter,) = await letters.newest(1)
    assert letter.reason == "unknown_type"
    assert await letters.retry(letter) == "resent"
    ((_, sent),) = await installation.redis.xrange(installation.keys.jobs)
    assert {name.decode(): value.decode() for name, value in sent.items()} == {"data": "{}", **fields}


async def test_an_item_is_queued_and_its_letter_removed_in_one_step(
    installation: Installation, letters: DeadLetters
) -> None:
    await installation.submit({"id": "a", "prompt": "x", "max_attempts": 1})
    first = await failed(installation, letters)
    outcomes = await asyncio.gather(*(letters.retry(first) for _ in range(4)))
    assert sorted(outcomes) == ["gone"] * 3 + ["requeued"]
    second = await failed(installation, letters)
    assert await letters.retry(first) == "gone"
    assert (await installation.record("default//a"))["state"] == "failed"
    assert await letters.retry(second) == "requeued"
    assert await installation.dead() == []


async def test_the_letter_of_an_item_that_already_goes_on_is_removed(
    installation: Installation, letters: DeadLetters
) -> None:
    await installation.submit({"id": "a", "prompt": "x", "max_attempts": 1})
    letter = await failed(installation, letters)
    await installation.orders.retry("item", "default//a", ("failed",))
    assert await letters.retry(letter) == "not_failed"
    assert await installation.dead() == []


async def test_an_item_whose_record_has_gone_is_not_begun_anew(
    installation: Installation, letters: DeadLetters
) -> None:
    await installation.submit({"id": "a", "prompt": "x", "max_attempts": 1})
    letter = await failed(installation, letters)
    await installation.redis.delete(installation.keys.item("default//a"))
    assert await letters.retry(letter) == "no_record"
    await installation.take_all()
    assert await installation.record("default//a") == {}
    assert len(await installation.dead()) == 1


async def test_the_oldest_letters_come_first_and_later_ones_not_at_all(
    installation: Installation, letters: DeadLetters
) -> None:
    for number in range(2 * PAGE + 1):
        await installation.add({"id": f"j{number}", "prompt": "x", "route": "none"})
    await installation.take_all()
    seen = []
    async for letter in letters.oldest_first():
        seen.append(letter.job)
        await letters.retry(letter)
        await installation.take_all()  # it comes back at once
    assert seen == [f"j{number}" for number in range(2 * PAGE + 1)]
    assert len(await installation.dead()) == 2 * PAGE + 1


def test_every_reason_has_its_series_before_it_happens(installation: Installation) -> None:
    metrics = installation.metrics
    for reason in (*OF_ITEMS, "malformed", "id_conflict"):
        assert metrics.registry.get_sample_value("pixmill_dead_letters_total", {"reason": reason}) == 0
