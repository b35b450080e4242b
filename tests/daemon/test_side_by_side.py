"""Two versions on one Redis, as in a rolling deploy: each calls its own scripts, and the records suit both."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.callbacks.signing import Webhooks
from daemon.queue import steps as today_steps
from daemon.queue.keys import CACHED, JOINED
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Failed, Retry, Succeeded, Throttled
from daemon.queue.queue import Queue
from tests.daemon.harness import Installation
from tests.daemon.older import steps as older_steps
from tests.daemon.older.items import NewItem, PartEnd
from tests.daemon.older.queue import Queue as OlderQueue

DONE = Succeeded({"images": []})
ERROR = {"kind": "provider_fault", "message": "It broke.", "charged": "no"}
OPEN = ("queued", "throttled", "retry_wait", "running", "held")
LANES = ("high", "normal", "low")


class Both:
    """One installation, seen by a replica of each version."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        self.installation = Installation(redis, webhooks=Webhooks({"main": (b"k" * 24,)}, ()))
        self.keys = self.installation.keys
        self.queues: dict[str, Any] = {
            "today": Queue(redis, self.keys, "today"),
            "older": OlderQueue(redis, self.keys, "older"),
        }

    async def accept(self, version: str, items: int = 3, **more: Any) -> None:
        if version == "today":
            await self.installation.batch("b1", items, **more)
            return
        older: OlderQueue = self.queues["older"]
        head = '"tenant":"default","job":"b1","item":"b1","batch":"b1"'
        await older.open_group(
            "default/b1", "batch", head=head, fingerprint="f", members=items, route="default", **more
        )
        await older.accept([older_item(k) for k in range(items)], PartEnd("default/b1", "1", ""))

    async def group(self) -> dict[str, str]:
        return await self.installation.group("default/b1")

    async def check_counts(self) -> dict[str, str]:
        """The batch's record, whose counts sum to its total."""
        group = await self.group()
        states = (*OPEN, "succeeded", "failed", "cancelled", "expired")
        assert sum(int(group[state]) for state in states) == int(group["total"])
        return group

    async def copies(self) -> list[Claimed]:
        """What today's replica claims to copy, when all that is due has been done."""
        assert not (await self.queues["today"].claim("default", 9, lanes=(JOINED,))).items
        while (await self.queues["today"].due())[0]:
            pass
        return list((await self.queues["today"].claim("default", 9, lanes=(CACHED,))).items)

    async def is_idle(self) -> bool:
        """Nothing is left in the ring, the backlogs and the group of the ready stream."""
        pending = await self.redis.xpending(self.keys.stream("default", "normal"), "workers")
        names = ("ring", "turns", "backlog", "waiting")
        left = [key for name in names for key in await self.redis.keys(f"pixmill:{name}:*")]
        return not left and pending["pending"] == 0


def older_item(number: int) -> NewItem:
    uid, spec = f"default/b1/i{number}", f'{{"id":"i{number}","prompt":"x"}}'.encode()
    head = f'"tenant":"default","job":"i{number}","item":"i{number}","batch":"b1"'
    return NewItem(uid, "default/b1", "1", "default", "normal", head, spec, f"f{number}", None, None, 5, "")


@pytest.fixture
def both(redis: Redis) -> Both:
    return Both(redis)


VERSIONS = ("today", "older")
PATHS = [path for path in itertools.product(VERSIONS, repeat=3) if len(set(path)) == 2]


def test_the_two_versions_have_scripts_of_their_own() -> None:
    for name, script in older_steps._SCRIPTS.items():
        if name in ("accept", "claim", "settle", "open_batch"):
            assert script.sha != today_steps._SCRIPTS[name].sha, name


@pytest.mark.parametrize(("accepts", "claims", "settles"), PATHS)
async def test_what_one_version_accepts_another_may_run_and_settle(
    both: Both, accepts: str, claims: str, settles: str
) -> None:
    await both.accept(accepts)
    items = (await both.queues[claims].claim("default", 2)).items
    for item in items:
        assert await both.queues[settles].settle(item, DONE) == "succeeded"
        await both.check_counts()
    for item in (await both.queues[settles].claim("default", 5)).items:
        await both.queues[claims].settle(item, DONE)
    group = await both.check_counts()
    assert (group["state"], group["succeeded"]) == ("completed", "3")
    assert await both.is_idle()
    kinds = await both.installation.kinds()
    assert (kinds.count("job.succeeded"), kinds.count("batch.finished")) == (3, 1)


@pytest.mark.parametrize(("first", "second"), [VERSIONS, VERSIONS[::-1]])
async def test_retries_throttles_cancels_and_expiries_of_one_version_are_the_others_too(
    both: Both, first: str, second: str
) -> None:
    a, b = both.queues[first], both.queues[second]
    await both.accept(first, 5)
    retried, throttled, failed = (await a.claim("default", 3)).items
    assert await b.settle(retried, Retry(ERROR, 0)) == "retry_wait"
    assert await b.settle(throttled, Throttled(ERROR, 0)) == "throttled"
    assert await a.settle(failed, Failed(ERROR)) == "failed"
    await both.check_counts()
    await both.redis.hset(both.keys.item("default/b1/i4"), "expires_us", 1)
    await both.redis.zadd(both.keys.expiring, {"default/b1/i4": 1})
    await a.due()
    await b.cancel("item", "default/b1/i3", OPEN)
    for item in (await b.claim("default", 5)).items:
        await a.settle(item, DONE)
    group = await both.check_counts()
    assert (group["state"], group["succeeded"]) == ("completed_with_errors", "2")
    await b.retry("group", "default/b1", ["failed", "cancelled", "expired"])
    for item in (await a.claim("default", 5)).items:
        await b.settle(item, DONE)
    group = await both.check_counts()
    assert (group["state"], group["succeeded"]) == ("completed", "5")
    assert await both.is_idle()


@pytest.mark.parametrize(("dead", "heir"), [VERSIONS, VERSIONS[::-1]])
async def test_a_version_takes_over_what_a_dead_worker_of_the_other_ran_and_fences_it(
    both: Both, dead: str, heir: str
) -> None:
    await both.accept(dead, 1)
    (item,) = (await both.queues[dead].claim("default", 1)).items
    await both.queues[dead].note_receipt(item, b'{"task_id":"t1"}')
    page = await both.queues[heir].reclaim("default", "normal", lease_s=0, cursor="0-0")
    (taken,) = page.items
    assert taken.receipt == b'{"task_id":"t1"}', "with its task, so nothing is bought again"
    assert await both.queues[dead].renew([item]) == ["lost"]
    assert await both.queues[dead].settle(item, DONE) == "lost"
    assert await both.queues[heir].settle(taken, DONE) == "succeeded"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_field_that_only_a_newer_version_knows_is_kept_to_the_end(both: Both, version: str) -> None:
    queue = both.queues[version]
    await both.accept(version, 1)
    names = (both.keys.item("default/b1/i0"), both.keys.group("default/b1"))
    for name in names:
        await both.redis.hset(name, "of_tomorrow", "kept")
    for outcome in (Retry(ERROR, 0), Throttled(ERROR, 0), Failed(ERROR)):
        (item,) = (await queue.claim("default", 1)).items
        await queue.note_intent(item)
        await queue.settle(item, outcome)
    await queue.retry("group", "default/b1", ["failed"])
    (item,) = (await queue.claim("default", 1)).items
    await queue.settle(item, DONE)
    while await queue.close_groups():
        pass
    for name in names:
        assert await both.redis.hget(name, "of_tomorrow") == b"kept"


@pytest.mark.parametrize(("accepts", "runs"), [VERSIONS, VERSIONS[::-1]])
async def test_a_batch_with_a_cap_keeps_it_whichever_version_runs_it(
    both: Both, accepts: str, runs: str
) -> None:
    await both.accept(accepts, 6, max_in_flight=2)
    for _ in range(3):
        items = (await both.queues[runs].claim("default", 10)).items
        assert len(items) == 2
        for item in items:
            await both.queues[runs].settle(item, DONE)
    group = await both.check_counts()
    assert (group["state"], group["in_ring"]) == ("completed", "0")


async def test_a_callback_survives_an_older_version_and_is_told_of_what_today_publishes(both: Both) -> None:
    wish = {"url": "https://shop.example/hook", "secret": "main"}
    await both.accept("today", 2, callback=wish, defaults={"prompt": "x", "callback": wish})
    first, second = (await both.queues["older"].claim("default", 2)).items
    await both.queues["older"].settle(first, DONE)
    assert await both.redis.zcard(both.keys.outbox) == 0, "an older version knows no callbacks"
    await both.queues["today"].settle(second, DONE)
    told = [
        (await both.redis.hget(both.keys.message(ident.decode()), "event")).decode()
        for ident in await both.redis.zrange(both.keys.outbox, 0, -1)
    ]
    assert sorted(told) == ["batch.finished", "job.succeeded"]


async def test_who_waits_for_an_identical_item_is_not_lost_where_an_older_replica_does_what_is_due(
    both: Both,
) -> None:
    await both.installation.batch("b1", 3, defaults={"prompt": "x", "cache": "use"})
    today, older = both.queues["today"], both.queues["older"]
    (leader,) = (await today.claim("default", 9)).items
    await both.redis.zadd(both.keys.looks, {"default/b1/i1": 1})  # its minute is over
    while (await older.due())[0]:
        pass
    await today.settle(leader, DONE)
    while (await older.due())[0]:
        pass
    for item in await both.copies():
        await today.settle(item, DONE)
    assert (await both.check_counts())["state"] == "completed"


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_had_joined_is_cancelled_by_either_and_retried_by_the_older_and_still_ends(
    both: Both, version: str
) -> None:
    await both.installation.batch("b1", 3, defaults={"prompt": "x", "cache": "use"}, max_in_flight=2)
    today, older = both.queues["today"], both.queues["older"]
    (leader,) = (await today.claim("default", 9)).items
    await both.queues[version].cancel("item", "default/b1/i1", ["queued"])
    await older.retry("item", "default/b1/i1", ["cancelled"])
    await today.settle(leader, DONE)
    copies = await both.copies()
    assert sorted(item.uid for item in copies) == ["default/b1/i1", "default/b1/i2"]
    for item in copies:
        await today.settle(item, DONE)
    group = await both.check_counts()
    assert (group["state"], group["in_ring"]) == ("completed", "0")


async def test_who_had_joined_and_is_retried_by_the_older_needs_a_permit_when_its_leader_has_failed(
    both: Both,
) -> None:
    await both.installation.batch("b1", 2, defaults={"prompt": "x", "cache": "use"})
    today, older = both.queues["today"], both.queues["older"]
    (leader,) = (await today.claim("default", 9)).items
    await older.cancel("item", "default/b1/i1", ["queued"])
    await older.retry("item", "default/b1/i1", ["cancelled"])
    await today.settle(leader, Failed(ERROR))
    assert await both.copies() == []
    (item,) = (await today.claim("default", 9)).items
    assert (item.uid, item.lane) == ("default/b1/i1", "normal")


async def test_a_copy_that_the_older_version_queued_leaves_the_cap_of_its_batch_as_it_was(both: Both) -> None:
    await both.installation.batch("b1", 2, defaults={"prompt": "x", "cache": "use"}, max_in_flight=1)
    today, older = both.queues["today"], both.queues["older"]
    (leader,) = (await today.claim("default", 9)).items
    await today.settle(leader, DONE)
    (copy,) = await both.copies()
    await today.settle(copy, Failed(ERROR))
    await older.retry("item", copy.uid, ["failed"])
    assert (await today.claim("default", 9)).items == [], "only what is left of the copy's place in line"
    (copy,) = await both.copies()
    await today.settle(copy, DONE)
    group = await both.check_counts()
    assert (group["state"], group["in_ring"]) == ("completed", "0")


async def test_both_go_on_after_the_server_has_forgotten_all_scripts(both: Both) -> None:
    await both.accept("older", 2)
    for version in VERSIONS:
        await both.redis.script_flush()
        (item,) = (await both.queues[version].claim("default", 1)).items
        await both.redis.script_flush()
        assert await both.queues[version].settle(item, DONE) == "succeeded"
    assert (await both.group())["state"] == "completed"
