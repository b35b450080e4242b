"""What an earlier Pixmill knew of its accounts still counts, and its unfinished batches can be finished."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.accounts.call_times import read_call_s
from daemon.accounts.quota_store import quotas_in_force
from daemon.queue.outcomes import Succeeded
from daemon.telemetry.metrics import Metrics
from daemon.worker.polls.durations import Durations
from daemon.worker.polls.rhythm import PollRule
from limiter import Grant, Later
from tests.daemon.harness import Installation
from tests.daemon.queue.golden.accounts import (
    ACCOUNTS,
    CONFIGURED,
    QUOTAS,
    SIZED,
    fill_accounts,
    granted,
    limiter_of,
)
from tests.daemon.queue.golden.dump import dump, restore
from tests.limiter.conftest import VirtualTime

GOLDEN: dict[str, Any] = orjson.loads(ACCOUNTS.read_bytes())
DONE = Succeeded({"images": []})


@pytest.fixture
async def installation(redis: Redis) -> Installation:
    await restore(redis, GOLDEN)
    return Installation(redis)


async def test_the_dump_has_the_keys_and_fields_that_are_written_today(redis: Redis) -> None:
    await fill_accounts(redis)
    now = await dump(redis)
    assert _shape(now) == _shape(GOLDEN)


def _shape(records: dict[str, Any]) -> dict[str, Any]:
    """Types and fields. The fields of the limiter's books are times."""
    plain = {key: entry["type"] == "hash" and ":limiter:" not in key for key, entry in records.items()}
    return {
        key: (entry["type"], sorted(entry["value"]) if plain[key] else "ttl_ms" in entry)
        for key, entry in records.items()
        if ":usage:" not in key
    }


async def test_the_use_of_every_kind_of_quota_counts_on(installation: Installation) -> None:
    """In the virtual time of the dump: of each quota one call was granted, of 2 pictures."""
    limiter = limiter_of(installation.redis, VirtualTime())
    used: dict[tuple[str, str], int] = {}
    for state in await limiter.snapshot([*QUOTAS.values()]):
        used |= {(state.quota, unit.unit): unit.capacity - unit.available for unit in state.units}
    assert used["strict", "images"] == 2
    for name in ("large", "bucket", "whole", "daily"):
        assert (name, used[name, "requests"]) == (name, 1)
    assert used["busy", "in_flight"] == 1


async def test_pauses_cuts_and_places_hold_on(installation: Installation) -> None:
    time = VirtualTime()
    limiter = limiter_of(installation.redis, time)
    learning, paused = await limiter.snapshot([QUOTAS["learning"], QUOTAS["paused"]])
    assert (learning.cooldown_reason, learning.cooldown_generation) == ("429", 1)
    assert learning.cooldown_s == pytest.approx(600, abs=1)
    assert learning.scale == pytest.approx(0.7)
    assert paused.paused_reason == "lunch"
    time.advance(1_000_000)
    await granted(limiter, QUOTAS["busy"], "second")
    third = await limiter.acquire(
        [QUOTAS["busy"]], costs={"requests": 1}, holder="w2", request_id="third", max_wait_s=1
    )
    assert isinstance(third, Later), "both places are taken"
    again = await granted(limiter, QUOTAS["busy"], "job-busy")
    assert isinstance(again, Grant), "a request that has its permit gets it again"
    assert await limiter.resume("paused")


async def test_what_operators_set_and_replicas_learned_is_read(installation: Installation) -> None:
    redis, keys = installation.redis, installation.keys
    (in_force,) = (await quotas_in_force(redis, keys, {"strict": CONFIGURED})).values()
    assert in_force.quota != in_force.configured
    assert in_force.problem is None
    assert in_force.set_at is not None
    assert await read_call_s(redis, keys, "default") == 12.5
    durations, route = Durations(redis, keys, Metrics()), installation.routes["default"]
    await durations.read(route, SIZED)
    assert durations.rule(route, SIZED)() != PollRule([])


async def test_a_batch_whose_second_part_comes_to_the_new_version_ends(installation: Installation) -> None:
    batch = {"id": "parts", "part": 2, "parts": 2, "items": [{"id": "i2", "prompt": "y"}]}
    await installation.submit(batch, type="pixmill.batch.v1")
    for item in await installation.claim(10):
        assert await installation.queue.settle(item, DONE) == "succeeded"
    group = await installation.group("default/parts")
    assert (group["state"], group["total"]) == ("completed", "2")


async def test_an_item_still_expires_and_an_ended_batch_is_still_closed(installation: Installation) -> None:
    redis, keys = installation.redis, installation.keys
    await redis.zadd(keys.expiring, {"default//expires": 1})
    await installation.queue.due()
    assert (await installation.record("default//expires"))["state"] == "expired"
    assert await redis.exists(keys.closing)
    while await installation.queue.close_groups(page=10):
        pass
    assert not await redis.exists(keys.closing)
