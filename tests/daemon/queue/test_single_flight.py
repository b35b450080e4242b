"""`cache: use`: one of several identical items is made, the others wait for it, and later ones find its picture."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import (
    Cancelled,
    Failed,
    Held,
    Missed,
    Outcome,
    Released,
    Retry,
    Succeeded,
    Throttled,
    Unknown,
)
from daemon.queue.pauses import pause
from pixmill.records.keys import CACHED, JOINED, LANES
from tests.daemon.harness import Installation

HASH = "a" * 64
URL = "https://93.184.216.34/a.png"
FAULT = {"kind": "provider_fault", "message": "It failed.", "charged": "maybe", "retryable": True}
REFUSAL = {"kind": "moderation_input", "message": "Not this.", "charged": "no", "retryable": False}
RECEIPT = b'{"task_id":"t1"}'
IDENTICAL = {"prompt": "x", "cache": "use"}


class Cache(Installation):
    """An installation whose jobs are identical unless a test says otherwise."""

    async def use(self, *ids: str, **fields: Any) -> None:
        await self.submit(*({"id": ident, **IDENTICAL, **fields} for ident in ids))

    async def look(self) -> None:
        """Queue all due items."""
        while (await self.queue.due())[0]:
            pass

    async def calls(self) -> list[Claimed]:
        """Claim the items that may be sent to the provider now."""
        await self.look()
        return await self.claim(100)

    async def copies(self) -> list[Claimed]:
        """Claim the items that are only copied now."""
        await self.look()
        return (await self.queue.claim("default", 100, queues=(CACHED,))).items

    async def leader(self) -> Claimed:
        """The one item that may be sent now."""
        (item,) = await self.calls()
        return item

    async def made(self, ident: str, **fields: Any) -> Claimed:
        """An item with its picture."""
        await self.use(ident, **fields)
        item = await self.leader()
        assert await self.queue.settle(item, picture(item)) == "succeeded"
        return item

    async def origin(self, item: Claimed) -> str:
        """The item whose picture this one gets."""
        entry = (await self.queue.answer(item)).entry
        return str(orjson.loads(entry)["from"]) if entry else ""

    async def place(self, ident: str) -> str:
        return (await self.record(f"default//{ident}"))["place"]

    async def state(self, ident: str) -> str:
        return (await self.record(f"default//{ident}"))["state"]

    async def depth(self) -> dict[str, int]:
        fields = await self.redis.hgetall(self.keys.depth)
        return {name.decode(): int(count) for name, count in fields.items() if int(count)}

    @property
    def flights(self) -> str:
        """The flights by the time of their next look."""
        return f"{self.keys.prefix}:flights"

    async def a_minute_later(self) -> None:
        """Make the next look at every flight due."""
        for name in await self.redis.zrange(self.flights, 0, -1):
            await self.redis.zadd(self.flights, {name: 1})

    async def commands(self) -> int:
        """How many commands the server has run, those of scripts among them."""
        stats = await self.redis.info("commandstats")
        return sum(each["calls"] for each in stats.values())

    async def forever(self) -> set[str]:
        """The keys of the cache that would never end by themselves."""
        found = [
            key for kind in ("flight", "picture", "refusal") for key in await self.redis.keys(f"*:{kind}:*")
        ]
        return {key.decode() for key in found if await self.redis.pttl(key) < 0}


@pytest.fixture
def cache(redis: Redis) -> Cache:
    return Cache(redis)


def picture(item: Claimed) -> Succeeded:
    return Succeeded({"images": [{"key": item.uid}], "attempts": 1, "revised_prompt": None})


def names(items: list[Claimed]) -> list[str]:
    return sorted(item.uid.rsplit("/", 1)[1] for item in items)


# Followers and copies


async def test_one_of_ten_identical_items_is_sent_and_the_others_are_copied(cache: Cache) -> None:
    await cache.use(*(f"a{k}" for k in range(10)))
    leader = await cache.leader()
    assert await cache.copies() == []
    assert await cache.depth() == {"default|normal|running": 1, "default|joined|queued": 9}
    await cache.queue.settle(leader, picture(leader))
    followers = await cache.copies()
    assert names(followers) == [f"a{k}" for k in range(1, 10)]
    for item in followers:
        assert await cache.origin(item) == leader.uid
        assert (await cache.queue.answer(item)).joined
        await cache.queue.settle(item, picture(item))
    assert {await cache.state(f"a{k}") for k in range(10)} == {"succeeded"}
    assert await cache.calls() == []
    assert (await cache.depth(), await cache.forever()) == ({}, set())


async def test_an_item_after_the_picture_is_copied_at_once_without_a_permit(cache: Cache) -> None:
    first = await cache.made("a")
    await cache.use("b")
    assert not await cache.queue.waiting("default", LANES)
    (item,) = (await cache.queue.claim("default", 9, queues=(CACHED,))).items
    assert await cache.origin(item) == first.uid
    assert not (await cache.queue.answer(item)).joined


async def test_an_item_that_comes_while_its_leader_runs_uses_no_permit(cache: Cache) -> None:
    await cache.use("a")
    leader = await cache.leader()
    await cache.use("b")
    assert not await cache.queue.waiting("default", (*LANES, JOINED, CACHED))
    assert await cache.depth() == {"default|normal|running": 1, "default|joined|queued": 1}
    await cache.queue.settle(leader, picture(leader))
    assert names(await cache.copies()) == ["b"]


async def test_a_look_at_a_running_leader_queues_nothing_until_the_next(cache: Cache) -> None:
    await cache.use("a")
    await cache.leader()
    await cache.use("b", "c", "d")
    await cache.a_minute_later()
    _, next_s = await cache.queue.due(2)
    assert not await cache.queue.waiting("default", LANES)
    assert await cache.depth() == {"default|normal|running": 1, "default|joined|queued": 3}
    assert next_s is not None
    assert 50 < next_s <= 60


async def test_a_look_leaves_a_leader_that_waits_with_its_task_to_its_time(cache: Cache) -> None:
    await cache.use("a", "b")
    leader = await cache.leader()
    await cache.queue.note_receipt(leader, RECEIPT)
    await cache.queue.settle(leader, Throttled({**FAULT, "resumable": True}, 300))
    await cache.a_minute_later()
    await cache.look()
    assert not await cache.queue.waiting("default", LANES)
    assert await cache.place("b") == JOINED


async def test_the_end_of_a_leader_costs_no_more_with_many_followers(cache: Cache) -> None:
    costs = []
    for prompt, followers in (("few", 3), ("many", 300)):
        same = {"prompt": prompt, "cache": "use"}
        await cache.submit({"id": prompt, **same})
        leader = await cache.leader()
        await cache.batch(f"b-{prompt}", followers, defaults=same)
        before = await cache.commands()
        await cache.queue.settle(leader, picture(leader))
        costs.append(await cache.commands() - before)
    assert costs[1] <= costs[0]


@pytest.mark.parametrize("outcome", [picture, lambda _: Failed(REFUSAL)], ids=["picture", "refusal"])
async def test_followers_are_woken_some_at_a_time_and_none_is_lost(cache: Cache, outcome: Any) -> None:
    await cache.use("a")
    leader = await cache.leader()
    await cache.batch("b1", 25, defaults=IDENTICAL)
    await cache.queue.settle(leader, outcome(leader))
    woken: list[int] = []
    while not woken or woken[-1]:
        moved, next_s = await cache.queue.due(10)
        assert next_s == 0 or sum(woken) + moved == 25, "the rest is due at once"
        woken.append(moved)
    assert (max(woken), sum(woken)) == (10, 25)
    assert len(await cache.copies()) == 25


async def test_looks_at_many_flights_share_the_most_of_a_step(cache: Cache) -> None:
    leaders = []
    for prompt in ("x", "y", "z"):
        same = {"prompt": prompt, "cache": "use"}
        await cache.submit({"id": prompt, **same})
        leaders.append(await cache.leader())
        await cache.batch(f"b-{prompt}", 9, defaults=same)
    for leader in leaders:
        await cache.queue.settle(leader, picture(leader))
    assert [(await cache.queue.due(10))[0] for _ in range(3)] == [10, 10, 7]
    assert len(await cache.copies()) == 27


async def test_followers_that_are_not_woken_yet_follow_the_next_leader(cache: Cache) -> None:
    await cache.use("a")
    leader = await cache.leader()
    await cache.batch("b1", 25, defaults=IDENTICAL)
    await cache.queue.settle(leader, Failed(FAULT))
    await cache.queue.due(10)
    (second,) = await cache.claim(1)
    assert await cache.calls() == []
    assert await cache.depth() == {"default|normal|running": 1, "default|joined|queued": 24}
    await cache.queue.settle(second, picture(second))
    assert len(await cache.copies()) == 24


async def test_a_refusal_also_reaches_followers_woken_after_the_next_start(cache: Cache) -> None:
    await cache.use("a")
    leader = await cache.leader()
    await cache.batch("b1", 25, defaults=IDENTICAL)
    await cache.queue.settle(leader, Failed(REFUSAL))
    await cache.queue.due(10)
    await cache.use("later")
    (second,) = await cache.claim(1)
    await cache.use("last")
    await cache.look()
    assert len(await cache.copies()) == 25
    assert (second.uid, await cache.place("last")) == ("default//later", JOINED)


async def test_items_in_line_are_woken_some_at_a_time_when_a_picture_is_there(cache: Cache) -> None:
    await cache.batch("b1", 25, defaults=IDENTICAL)
    (leader,) = await cache.claim(1)
    await cache.queue.settle(leader, picture(leader))
    assert (await cache.queue.due(10))[0] == 10
    assert len(await cache.copies()) == 24


async def test_a_thousand_followers_are_all_copied(cache: Cache) -> None:
    await cache.batch("b1", 1000, defaults=IDENTICAL)
    await cache.batch("b2", 200, defaults=IDENTICAL)
    leader = await cache.leader()
    await cache.queue.settle(leader, picture(leader))
    copied = 0
    while items := await cache.copies():
        for item in items:
            await cache.queue.settle(item, picture(item))
        copied += len(items)
    assert copied == 1199
    for batch in ("b1", "b2"):
        assert (await cache.group(f"default/{batch}"))["state"] == "completed"


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "anna"},
        {"prompt": "y"},
        {"seed": 0},
        {"size": "16:9"},
        {"params": {"steps": 9}},
        {"output": {"format": "webp"}},
        {"inputs": [{"url": URL, "sha256": HASH}]},
    ],
)
async def test_items_of_different_tenants_or_pixels_share_nothing(
    cache: Cache, other: dict[str, Any]
) -> None:
    await cache.use("a")
    await cache.use("b", **other)
    items = await cache.calls()
    assert names(items) == ["a", "b"]
    for item in items:
        await cache.queue.settle(item, picture(item))
    await cache.use("c", **other)
    (copy,) = await cache.copies()
    assert (await cache.origin(copy)).endswith("//b")


async def test_without_the_cache_pictures_are_neither_used_nor_kept(cache: Cache) -> None:
    await cache.made("a", cache="off")
    await cache.made("b")
    await cache.made("c", cache="off")
    await cache.use("d")
    (copy,) = await cache.copies()
    assert await cache.origin(copy) == "default//b"


async def test_an_input_with_unknown_bytes_matches_no_other(cache: Cache) -> None:
    await cache.use("a", "b", inputs=[{"url": URL}, {"url": URL, "sha256": HASH}])
    assert names(await cache.calls()) == ["a", "b"]


async def test_the_same_bytes_from_another_address_are_the_same_input(cache: Cache) -> None:
    await cache.use("a", inputs=[{"url": URL, "sha256": HASH}])
    await cache.use("b", inputs=[{"object": "mine/a.png", "sha256": HASH}])
    assert names(await cache.calls()) == ["a"]


async def test_pictures_of_one_job_join_those_of_an_identical_job_alone(
    cache: Cache,
) -> None:
    await cache.use("a", n=4)
    await cache.use("b", n=4)
    items = await cache.calls()
    assert names(items) == ["a.0", "a.1", "a.2", "a.3"]
    for item in items:
        await cache.queue.settle(item, picture(item))
    assert {item.uid: await cache.origin(item) for item in await cache.copies()} == {
        f"default//b.{k}": f"default//a.{k}" for k in range(4)
    }


async def test_picture_k_of_a_seeded_job_is_the_picture_of_that_seed(cache: Cache) -> None:
    await cache.use("a", n=3, seed=5)
    await cache.use("b", seed=7)
    assert names(await cache.calls()) == ["a.0", "a.1", "a.2"]
    assert await cache.place("b") == JOINED


# The claim decides about the leader


async def paused(cache: Cache) -> None:
    await cache.batch("b1", 1, defaults=IDENTICAL)
    await pause(cache.redis, cache.keys, "batch", "default/b1")


async def behind_the_cap_of_its_batch(cache: Cache) -> None:
    items = [{"id": "i0", "prompt": "y"}, {"id": "i1", **IDENTICAL}]
    await cache.submit({"id": "b1", "items": items, "max_in_flight": 1}, type="pixmill.batch.v1")
    assert names(await cache.claim(9)) == ["i0"]


async def at_the_end_of_its_batch(cache: Cache) -> None:
    items = [{"id": f"i{k}", "prompt": f"{k}"} for k in range(50)]
    await cache.submit({"id": "b1", "items": [*items, {"id": "last", **IDENTICAL}]}, type="pixmill.batch.v1")


async def of_lower_priority(cache: Cache) -> None:
    await cache.use("low", priority="low")


@pytest.mark.parametrize(
    "first", [paused, behind_the_cap_of_its_batch, at_the_end_of_its_batch, of_lower_priority]
)
async def test_no_item_waits_for_an_identical_one_whose_turn_has_not_come(cache: Cache, first: Any) -> None:
    await first(cache)
    await cache.use("mine", priority="high")
    await cache.look()
    (item,) = await cache.claim(1)
    assert item.uid == "default//mine"


async def test_an_item_that_stands_aside_uses_no_permit(cache: Cache) -> None:
    await cache.use("a", "b", "c")
    await cache.use("d", prompt="y")
    (leader,) = await cache.claim(1)
    permits = ['{"id":"p1"}', '{"id":"p2"}']
    (item,) = (await cache.queue.claim("default", 2, permits)).items
    assert (leader.uid, item.uid, item.permit) == ("default//a", "default//d", permits[0])
    assert await cache.depth() == {"default|normal|running": 2, "default|joined|queued": 2}


async def test_a_leader_that_waits_again_frees_its_followers_and_is_copied(cache: Cache) -> None:
    await cache.use("a", "b", "c")
    await cache.queue.settle(await cache.leader(), Retry(FAULT, 300))
    leader = await cache.leader()
    assert leader.uid == "default//b"
    await cache.queue.settle(leader, picture(leader))
    assert names(await cache.copies()) == ["c"]
    await cache.redis.zadd(cache.keys.delayed, {"default//a": 1})
    assert names(await cache.copies()) == ["a"]


@pytest.mark.parametrize("held_back", [False, True])
async def test_a_leader_that_waits_with_its_task_leads_on_unless_it_is_paused(
    cache: Cache, held_back: bool
) -> None:
    await cache.batch("b1", 1, defaults=IDENTICAL)
    await cache.use("a")
    item = await cache.leader()
    await cache.queue.note_receipt(item, RECEIPT)
    if held_back:
        await pause(cache.redis, cache.keys, "batch", "default/b1")
    await cache.queue.settle(item, Throttled({**FAULT, "resumable": True}, 300))
    assert names(await cache.calls()) == (["a"] if held_back else [])


async def test_a_pause_of_the_leaders_batch_holds_its_followers_a_minute_at_most(cache: Cache) -> None:
    await cache.batch("b1", 1, defaults=IDENTICAL)
    await cache.use("a")
    item = await cache.leader()
    await cache.queue.note_receipt(item, RECEIPT)
    await cache.queue.settle(item, Throttled({**FAULT, "resumable": True}, 300))
    assert await cache.calls() == []
    assert await cache.place("a") == JOINED
    await pause(cache.redis, cache.keys, "batch", "default/b1")
    now_us = await cache.queue.now_us()
    ((_, look_us),) = await cache.redis.zrange(cache.flights, 0, -1, withscores=True)
    assert 50e6 < look_us - now_us <= 60e6
    await cache.a_minute_later()
    assert names(await cache.calls()) == ["a"]


async def test_the_leader_after_a_paused_one_is_the_only_one(cache: Cache) -> None:
    await cache.batch("b1", 1, defaults=IDENTICAL)
    first = await cache.leader()
    await cache.queue.note_receipt(first, RECEIPT)
    await cache.queue.settle(first, Throttled({**FAULT, "resumable": True}, 300))
    await pause(cache.redis, cache.keys, "batch", "default/b1")
    await cache.batch("b2", 1, defaults=IDENTICAL)
    second = await cache.leader()
    await cache.use("a")
    assert (second.uid, await cache.place("a")) == ("default/b2/i0", JOINED)


async def test_a_leader_with_a_task_leads_on_behind_the_cap_of_its_batch(
    cache: Cache,
) -> None:
    items = [{"id": "i0", **IDENTICAL}, {"id": "i1", "prompt": "y"}]
    await cache.submit({"id": "b1", "items": items, "max_in_flight": 1}, type="pixmill.batch.v1")
    (item,) = await cache.claim(9)
    await cache.queue.note_receipt(item, RECEIPT)
    await cache.queue.settle(item, Throttled({**FAULT, "resumable": True}, 300))
    assert names(await cache.claim(9)) == ["i1"]
    await cache.use("a")
    assert await cache.calls() == []
    assert await cache.place("a") == JOINED


async def test_all_that_joined_take_their_own_turns_when_the_leader_fails(cache: Cache) -> None:
    await cache.use("a")
    leader = await cache.leader()
    await cache.use("slow", priority="low")
    await cache.use("quick", priority="high")
    await cache.queue.settle(leader, Failed(FAULT))
    await cache.look()
    assert (await cache.place("slow"), await cache.place("quick")) == ("queue", "queue")
    assert names(await cache.claim(9)) == ["quick"]
    assert await cache.place("slow") == JOINED


async def test_a_former_entry_does_not_start_an_item_before_its_time(cache: Cache) -> None:
    await cache.use("first", cache="refresh")
    await cache.use("a")
    (item,) = await cache.claim(1)
    await cache.orders.cancel("item", "default//a", ["queued"])
    await cache.queue.settle(item, picture(item))
    await cache.orders.retry("item", "default//a", ["cancelled"])
    (copy,) = await cache.copies()
    await cache.queue.settle(copy, Missed((await cache.queue.answer(copy)).entry))
    (call,) = await cache.claim(1)
    assert call.uid == "default//a"
    await cache.queue.settle(call, Retry(FAULT, 300))
    assert await cache.calls() == [], "the entry with which it had stood in line first is still there"
    assert await cache.state("a") == "retry_wait"


@pytest.mark.parametrize("cap", [1, 2])
async def test_an_item_that_stands_twice_in_its_lane_starts_once(cache: Cache, cap: int) -> None:
    items = [{"id": ident, **IDENTICAL} for ident in ("a", "b", "c")]
    await cache.submit({"id": "b1", "items": items, "max_in_flight": cap}, type="pixmill.batch.v1")
    (leader,) = await cache.claim(1)
    await cache.queue.settle(leader, picture(leader))
    for item in await cache.copies():
        await cache.queue.settle(item, Missed((await cache.queue.answer(item)).entry))
    lane = cache.keys.backlog("default", "normal", "default", "b1")
    ring = await cache.redis.hvals(cache.keys.ring("default", "normal"))
    entries = [*ring, *await cache.redis.lrange(lane, 0, -1)]
    assert max(entries.count(uid) for uid in entries) == 2, "in its former place and first"
    (call,) = await cache.claim(9)
    await cache.queue.settle(call, picture(call))
    for item in await cache.copies():
        await cache.queue.settle(item, picture(item))
    assert await cache.calls() == []
    group = await cache.group("default/b1")
    assert (group["succeeded"], group["state"], group["in_ring"]) == ("3", "completed", "0")
    kinds = [kind for kind, data in await cache.events() if data.get("item") == call.uid.rsplit("/", 1)[1]]
    assert kinds.count("job.succeeded") == 1
    assert (await cache.depth(), await cache.redis.exists(lane)) == ({}, 0)


async def test_the_bell_rings_for_items_to_copy(cache: Cache) -> None:
    await cache.use("a", "b")
    leader = await cache.leader()
    async with cache.redis.pubsub() as bell:
        await bell.subscribe(cache.keys.bell)
        await cache.queue.settle(leader, picture(leader))
        await cache.look()
        async with asyncio.timeout(10):
            while (await bell.get_message(timeout=1) or {}).get("data") != b"work cached":
                pass


# Refresh


async def test_a_refresh_is_made_anew_and_its_picture_replaces_the_old_one(cache: Cache) -> None:
    await cache.made("old")
    await cache.use("fresh", cache="refresh")
    item = await cache.leader()
    await cache.use("meanwhile")
    (copy,) = await cache.copies()
    assert await cache.origin(copy) == "default//old"
    await cache.queue.settle(item, picture(item))
    await cache.use("later")
    (copy,) = await cache.copies()
    assert await cache.origin(copy) == "default//fresh"


async def test_a_refresh_never_waits_and_other_items_may_join_it(cache: Cache) -> None:
    await cache.use("r1", "r2", cache="refresh")
    await cache.use("a")
    first, second = await cache.calls()
    assert await cache.place("a") == JOINED
    await cache.queue.settle(second, picture(second))
    (copy,) = await cache.copies()
    assert await cache.origin(copy) == second.uid, "whichever picture is there first"
    await cache.queue.settle(first, picture(first))
    assert await cache.calls() == []


# The leader ends


async def end_by_cancel(cache: Cache, leader: str) -> None:
    await cache.orders.cancel("item", leader, ["queued"])


async def end_by_expiry(cache: Cache, leader: str) -> None:
    await cache.redis.zadd(cache.keys.expiring, {leader: 1})


async def end_by_poison(cache: Cache, leader: str) -> None:
    await cache.claim()
    page = await cache.queue.reclaim("default", "normal", lease_s=0, cursor="0-0", most_crashes=0)
    assert page.poisoned == 1


def settled(outcome: Outcome) -> Any:
    async def end(cache: Cache, leader: str) -> None:
        (item,) = await cache.claim()
        await cache.queue.settle(item, outcome)

    return end


async def end_by_cancel_while_it_runs(cache: Cache, leader: str) -> None:
    (item,) = await cache.claim()
    await cache.orders.cancel("item", leader, ["running"])
    await cache.queue.settle(item, Cancelled())


ENDS = {
    "cancelled": end_by_cancel,
    "cancelled while it ran": end_by_cancel_while_it_runs,
    "expired": end_by_expiry,
    "failed": settled(Failed(FAULT)),
    "last attempt": settled(Retry(FAULT, 0)),
    "held": settled(Held(FAULT)),
    "poison": end_by_poison,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_after_a_leader_without_a_picture_the_next_one_leads(cache: Cache, end: Any) -> None:
    await cache.use("a", "b", "c", max_attempts=1)
    await end(cache, "default//a")
    leader = await cache.leader()
    assert leader.uid == "default//b"
    assert await cache.place("c") == JOINED
    await cache.queue.settle(leader, picture(leader))
    assert names(await cache.copies()) == ["c"]


@pytest.mark.parametrize(
    "outcome", [Retry(FAULT, 0), Throttled(FAULT, 0), Unknown(FAULT), Released()], ids=lambda o: o.name
)
async def test_a_leader_that_runs_again_at_once_leads_again(cache: Cache, outcome: Outcome) -> None:
    await cache.use("a", "b")
    await cache.queue.settle(await cache.leader(), outcome)
    again = await cache.leader()
    assert again.uid == "default//a"
    await cache.queue.settle(again, picture(again))
    assert names(await cache.copies()) == ["b"]


async def test_a_leader_that_is_taken_over_still_leads(cache: Cache) -> None:
    await cache.use("a", "b")
    zombie = await cache.leader()
    other = cache.other("w2")
    (adopted,) = (await other.reclaim("default", "normal", lease_s=0, cursor="0-0")).items
    assert await cache.calls() == []
    assert await cache.queue.settle(zombie, Failed(FAULT)) == "lost"
    assert await cache.calls() == [], "who lost its lease wakes nobody"
    await other.settle(adopted, picture(adopted))
    assert names(await cache.copies()) == ["b"]


async def test_a_refusal_ends_all_that_waited_and_no_later_item(
    cache: Cache,
) -> None:
    await cache.use("a", "b", "c")
    await cache.queue.settle(await cache.leader(), Failed(REFUSAL))
    followers = await cache.copies()
    assert names(followers) == ["b", "c"]
    for item in followers:
        answer = await cache.queue.answer(item)
        assert (answer.entry, orjson.loads(answer.refusal)) == (b"", REFUSAL)
        await cache.queue.settle(item, Failed(REFUSAL))
    await cache.use("d")
    assert names(await cache.calls()) == ["d"]
    assert await cache.forever() == {cache.keys.flight("default", await fingerprint(cache, "d"))}


async def test_an_item_that_comes_while_a_refusal_is_passed_on_is_made(cache: Cache) -> None:
    await cache.use("a", "b")
    await cache.queue.settle(await cache.leader(), Failed(REFUSAL))
    (follower,) = await cache.copies()
    await cache.use("later")
    assert names(await cache.calls()) == ["later"]
    assert await cache.queue.settle(follower, Failed(REFUSAL)) == "failed"


async def test_a_refusal_is_shared_with_items_that_stand_in_line(cache: Cache) -> None:
    await cache.use("a", "b", "c")
    (leader,) = await cache.claim(1)
    await cache.queue.settle(leader, Failed(REFUSAL))
    assert await cache.claim(9) == []
    assert names(await cache.copies()) == ["b", "c"]


async def test_a_refusal_does_not_apply_to_later_items(cache: Cache) -> None:
    await cache.use("a", "b")
    await cache.queue.settle(await cache.leader(), Failed(REFUSAL))
    for item in await cache.copies():
        await cache.queue.settle(item, Failed(REFUSAL))
    await cache.use("c", "d")
    await cache.queue.settle(await cache.leader(), Failed(FAULT))
    assert (await cache.leader()).uid == "default//d"


async def test_a_refusal_of_an_item_that_does_not_lead_is_not_shared(cache: Cache) -> None:
    await cache.use("r1", "r2", cache="refresh")
    await cache.use("a")
    leader, other = await cache.calls()
    await cache.queue.settle(other, Failed(REFUSAL))
    assert await cache.copies() == []
    await cache.queue.settle(leader, Failed(FAULT))
    assert (await cache.leader()).uid == "default//a"


async def fingerprint(cache: Cache, ident: str) -> str:
    return (await cache.record(f"default//{ident}"))["flight"].split("/")[1]


# Followers


async def test_a_follower_may_be_cancelled_and_the_counts_sum(cache: Cache) -> None:
    await cache.batch("b1", 4, defaults=IDENTICAL)
    leader = await cache.leader()
    await cache.orders.cancel("item", "default/b1/i1", ["queued"])
    await cache.queue.settle(leader, picture(leader))
    for item in await cache.copies():
        await cache.queue.settle(item, picture(item))
    group = await cache.group("default/b1")
    assert (group["succeeded"], group["cancelled"], group["state"]) == ("3", "1", "completed_with_errors")
    assert (await cache.depth(), await cache.forever()) == ({}, set())


async def test_a_cancelled_batch_leaves_followers_of_another_their_leader(cache: Cache) -> None:
    await cache.batch("b1", 3, defaults=IDENTICAL)
    await cache.batch("b2", 3, defaults=IDENTICAL)
    await cache.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    leader = await cache.leader()
    assert leader.uid == "default/b2/i0"
    await cache.queue.settle(leader, picture(leader))
    assert names(await cache.copies()) == ["i1", "i2"]


async def test_a_follower_has_its_own_expiry(cache: Cache) -> None:
    await cache.use("a")
    await cache.use("b", expires_at="2020-01-01T00:00:00Z")
    await cache.look()
    assert (await cache.state("a"), await cache.state("b")) == ("queued", "expired")


async def test_followers_whose_records_have_vanished_hold_nobody_up(cache: Cache) -> None:
    await cache.use("a", "b", "c", "d")
    leader = await cache.leader()
    await cache.redis.delete(cache.keys.item("default//b"), cache.keys.item("default//c"))
    await cache.queue.settle(leader, picture(leader))
    for _ in range(3):
        await cache.queue.due(2)
    assert names((await cache.queue.claim("default", 9, queues=(CACHED,))).items) == ["d"]
    assert await cache.redis.keys("pixmill:flight:*") == [], "no flight is looked at for ever"


async def test_a_woken_item_that_is_cancelled_at_once_wakes_the_next(cache: Cache) -> None:
    await cache.use("a", "b", "c")
    await cache.queue.settle(await cache.leader(), Failed(FAULT))
    await cache.orders.cancel("item", "default//b", ["queued"])
    assert (await cache.leader()).uid == "default//c"


async def test_an_item_that_may_not_start_yet_joins_when_it_may(cache: Cache) -> None:
    await cache.use("a", not_before="2099-01-01T00:00:00Z")
    await cache.use("b")
    assert (await cache.leader()).uid == "default//b"
    await cache.redis.zadd(cache.keys.delayed, {"default//a": 1})
    assert await cache.calls() == []
    assert await cache.place("a") == JOINED


async def test_copies_wait_for_neither_the_cap_of_their_batch_nor_a_permit(cache: Cache) -> None:
    await cache.batch("b1", 3, defaults=IDENTICAL, max_in_flight=1)
    (leader,) = await cache.claim(1)
    await cache.queue.settle(leader, picture(leader))
    copies = await cache.copies()
    assert names(copies) == ["i1", "i2"]
    for item in copies:
        await cache.queue.settle(item, picture(item))
    group = await cache.group("default/b1")
    assert (group["state"], await cache.calls()) == ("completed", [])
    assert (await cache.group("default/b1"))["in_ring"] == "0"


# A person's retry


async def test_a_retry_finds_the_picture_that_was_made_meanwhile(cache: Cache) -> None:
    await cache.use("a")
    await cache.queue.settle(await cache.leader(), Failed(FAULT))
    await cache.made("b")
    await cache.orders.retry("item", "default//a", ["failed"])
    assert await cache.calls() == []
    assert names(await cache.copies()) == ["a"]


async def test_a_retry_whose_task_is_still_good_polls_it_without_a_wait(cache: Cache) -> None:
    await cache.use("a")
    item = await cache.leader()
    await cache.queue.note_receipt(item, RECEIPT)
    await cache.queue.settle(item, Failed({**FAULT, "resumable": True}), "yes")
    await cache.use("b")
    assert names(await cache.calls()) == ["b"]
    await cache.orders.retry("item", "default//a", ["failed"])
    (again,) = await cache.calls()
    assert (again.uid, again.receipt) == ("default//a", RECEIPT)


async def test_a_retry_whose_task_is_still_good_leads_at_once(cache: Cache) -> None:
    await cache.use("a")
    item = await cache.leader()
    await cache.queue.note_receipt(item, RECEIPT)
    await cache.queue.settle(item, Failed({**FAULT, "resumable": True}), "yes")
    await cache.orders.retry("item", "default//a", ["failed"])
    await cache.use("b", priority="high")
    assert names(await cache.calls()) == ["a"]
    assert await cache.place("b") == JOINED


async def test_a_retry_with_a_late_receipt_polls_its_task_without_a_wait(cache: Cache) -> None:
    await cache.use("a")
    item = await cache.leader()
    await cache.queue.settle(item, Failed(FAULT))
    await cache.queue.note_receipt(item, RECEIPT)
    await cache.use("b")
    assert names(await cache.calls()) == ["b"]
    await cache.orders.retry("item", "default//a", ["failed"])
    (again,) = await cache.calls()
    assert (again.uid, again.receipt) == ("default//a", RECEIPT)


async def test_an_item_cancelled_and_retried_in_line_joins_the_others(cache: Cache) -> None:
    await cache.use("a", "b")
    await cache.orders.cancel("item", "default//a", ["queued"])
    await cache.look()
    await cache.orders.retry("item", "default//a", ["cancelled"])
    assert (await cache.leader()).uid == "default//a"
    assert (await cache.place("b"), await cache.state("b")) == (JOINED, "queued")


# A picture that has gone


async def test_after_the_picture_has_gone_one_is_made_and_the_others_join(cache: Cache) -> None:
    await cache.made("a")
    await cache.use("b", "c", "d", priority="high")
    copies = await cache.copies()
    for item in copies:
        entry = (await cache.queue.answer(item)).entry
        assert await cache.queue.settle(item, Missed(entry)) == "queued"
    leader = await cache.leader()
    assert (leader.lane, len(copies)) == ("high", 3)
    assert await cache.depth() == {"default|high|running": 1, "default|joined|queued": 2}
    await cache.queue.settle(leader, picture(leader))
    assert len(await cache.copies()) == 2


async def test_a_miss_of_an_old_picture_keeps_a_new_one(cache: Cache) -> None:
    await cache.made("old")
    await cache.use("a")
    (item,) = await cache.copies()
    entry = (await cache.queue.answer(item)).entry
    await cache.made("new", cache="refresh")
    await cache.queue.settle(item, Missed(entry))
    assert await cache.calls() == []
    (again,) = await cache.copies()
    assert await cache.origin(again) == "default//new"


async def test_a_picture_is_offered_as_long_as_its_makers_record_lives(cache: Cache) -> None:
    await cache.made("a")
    key = cache.keys.picture("default", await fingerprint(cache, "a"))
    difference_ms = await cache.redis.pttl(key) - await cache.redis.pttl(cache.keys.item("default//a"))
    assert abs(difference_ms) < 1000
    await cache.redis.delete(key)
    await cache.use("b")
    assert names(await cache.calls()) == ["b"]


async def test_a_copy_does_not_lengthen_the_life_of_the_entry(cache: Cache) -> None:
    await cache.made("a")
    key = cache.keys.picture("default", await fingerprint(cache, "a"))
    await cache.redis.pexpire(key, 60_000)
    await cache.use("b")
    (item,) = await cache.copies()
    await cache.queue.settle(item, picture(item))
    assert await cache.redis.pttl(key) <= 60_000
    assert orjson.loads(await cache.redis.get(key))["from"] == "default//a"


async def test_a_copy_whose_worker_died_is_copied_by_the_next(cache: Cache) -> None:
    await cache.made("a")
    await cache.use("b")
    (item,) = await cache.copies()
    other = cache.other("w2")
    (adopted,) = (await other.reclaim("default", CACHED, lease_s=0, cursor="0-0")).items
    assert (adopted.uid, adopted.place) == (item.uid, CACHED)
    assert await cache.queue.settle(item, picture(item)) == "lost"
    assert await other.settle(adopted, picture(adopted)) == "succeeded"
