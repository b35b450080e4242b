"""A tenant has a cap on waiting items; work over it is refused as a whole, with the cap in the error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from daemon.queue.outcomes import Cancelled, Failed, Held, Released, Retry, Succeeded, Throttled, Unknown
from tests.daemon.harness import Installation

ERROR = {"kind": "provider_fault", "message": "It failed.", "charged": "no", "retryable": True}
CAP = 3


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis, cap=CAP)


async def waiting(installation: Installation) -> dict[str, int]:
    fields = await installation.redis.hgetall(installation.keys.tenants)
    return {tenant.decode(): int(count) for tenant, count in fields.items()}


def job(ident: str, **more: Any) -> dict[str, Any]:
    return {"id": ident, "prompt": "x", **more}


async def refused(installation: Installation) -> list[tuple[str, str]]:
    return [
        (data["job"], data["code"]) for kind, data in await installation.events() if kind == "job.rejected"
    ]


async def test_a_job_over_the_cap_is_one_dead_letter_that_names_the_cap(installation: Installation) -> None:
    await installation.submit(*(job(f"j{number}") for number in range(5)), job("other", tenant="shop"))
    assert await refused(installation) == [("j3", "backlog_full"), ("j4", "backlog_full")]
    assert await waiting(installation) == {"default": CAP, "shop": 1}
    letters = await installation.dead()
    assert [letter["reason"] for letter in letters] == ["backlog_full"] * 2
    assert "may have 3 items waiting (worker.max_backlog_per_tenant)" in letters[0]["error"]
    assert '"id":"j3"' in letters[0]["data"], "it can be retried later"
    assert await installation.redis.xlen(installation.keys.jobs) == 0
    assert installation.metrics.registry.get_sample_value(
        "pixmill_dead_letters_total", {"reason": "backlog_full"}
    ) == len(letters)


async def test_a_place_comes_free_when_an_item_starts(installation: Installation) -> None:
    await installation.submit(*(job(f"j{number}") for number in range(CAP)))
    await installation.claim()
    await installation.submit(job("j3"), job("j4"))
    assert await refused(installation) == [("j4", "backlog_full")]


@pytest.mark.parametrize("items", [CAP, CAP + 1])
async def test_a_batch_is_taken_whole_or_not_at_all(installation: Installation, items: int) -> None:
    await installation.batch("b1", items)
    taken = items <= CAP
    assert await refused(installation) == ([] if taken else [("b1", "backlog_full")])
    assert await waiting(installation) == ({"default": items} if taken else {})
    assert len(await installation.claim(10)) == (items if taken else 0)
    assert bool(await installation.group("default/b1")) is taken


async def test_a_job_of_several_pictures_is_all_of_its_pictures(installation: Installation) -> None:
    await installation.submit(job("two", n=2), job("more", n=2), job("one"))
    assert await refused(installation) == [("more", "backlog_full")]
    assert await waiting(installation) == {"default": 3}


async def test_the_parts_of_a_batch_are_refused_from_the_first_or_let_in_to_the_last(
    installation: Installation,
) -> None:
    async def part(batch: str, number: int, items: int) -> None:
        payload = {"id": batch, "part": number, "parts": 2, "defaults": {"prompt": "x"}}
        payload["items"] = [{"id": f"i{number}-{k}"} for k in range(items)]
        await installation.submit(payload, type="pixmill.batch.v1")

    await part("large", 1, 2)  # two parts of this size would be four
    await part("small", 1, 1)
    await part("small", 2, 9)  # the last part is larger than it looked; half a batch would help nobody
    assert await refused(installation) == [("large", "backlog_full")]
    assert await waiting(installation) == {"default": 10}


async def test_a_known_job_is_a_duplicate_even_if_the_backlog_is_full(
    installation: Installation,
) -> None:
    await installation.batch("b1", CAP)
    await installation.batch("b1", CAP)
    await installation.submit(job("j1", tenant="shop"), job("j1", tenant="shop"))
    assert await refused(installation) == []
    assert [kind for kind in await installation.kinds() if kind == "job.duplicate"] == ["job.duplicate"] * 2


async def test_without_a_cap_everything_is_taken(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 50)
    assert await waiting(installation) == {"default": 50}


OUTCOMES = [
    Succeeded({"images": []}),
    Failed(ERROR),
    Retry(ERROR, 0),
    Retry(ERROR, 3600),
    Throttled(ERROR, 0),
    Unknown(ERROR),
    Held(ERROR),
    Cancelled(),
    Released(),
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 5)),
        st.tuples(st.just("batch"), st.integers(1, 4)),
        st.tuples(st.just("several"), st.integers(2, 3)),
        st.tuples(st.just("run"), st.sampled_from(OUTCOMES)),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
        st.tuples(st.just("retry"), st.integers(0, 5)),
        st.tuples(st.just("expire"), st.just(0)),
    ),
    max_size=14,
)


@given(steps=STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_the_count_equals_the_waiting_items_after_any_steps(redis: Redis, steps: Any) -> None:
    await redis.flushall()
    installation = Installation(redis, cap=6)
    for number, (what, how) in enumerate(steps):
        if what == "submit":
            await installation.submit(job(f"j{how}"))
        elif what == "batch":
            await installation.batch(f"b{how}", how)
        elif what == "several":
            await installation.submit(job(f"n{how}", n=how))
        elif what == "run":
            for item in await installation.claim(2):
                await installation.queue.settle(item, how)
        elif what == "cancel":
            await installation.submit({"job": f"j{how}"}, type="pixmill.cancel.v1")
            await installation.submit({"batch": f"b{how}"}, type="pixmill.cancel.v1")
        elif what == "retry":
            states = ["failed", "held", "cancelled", "expired"]
            await installation.submit({"job": f"j{how}", "statuses": states}, type="pixmill.retry.v1")
        elif what == "expire":
            await installation.submit(job(f"e{number}", expires_at="2020-01-01T00:00:00Z"))
            await installation.queue.due()
    records = [await installation.redis.hgetall(key) for key in await redis.keys("pixmill:item:*")]
    count = sum(record[b"state"] in (b"queued", b"throttled", b"retry_wait") for record in records)
    expected = {"default": count} if count else {}
    assert await waiting(installation) == expected


async def test_a_group_that_is_being_filled_is_counted_whole(installation: Installation) -> None:
    gid = "default/b1"
    await installation.queue.open_group(gid, "batch", head='"tenant":"default"', fingerprint="f", members=3)
    assert await waiting(installation) == {"default": 3}
