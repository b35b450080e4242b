"""Records of an earlier Pixmill still work: they can be read, claimed, settled, retried and cancelled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.queue.dead_letters import DeadLetters
from daemon.queue.messages import SCHEMA
from daemon.queue.outbox import Outbox
from daemon.queue.outcomes import Succeeded
from daemon.queue.pauses import read_pauses
from pixmill.records.keys import CACHED
from pixmill.records.records import Records
from pixmill.records.views import ItemView
from tests.daemon.harness import Installation
from tests.daemon.queue.golden.dump import RECEIPT, RECORDS, dump, fill, restore

DONE = Succeeded({"images": []})
GOLDEN: dict[str, Any] = orjson.loads(RECORDS.read_bytes())
STATES = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "late": "expired",
    "held": "held",
    "throttled": "throttled",
    "retry_wait": "retry_wait",
    "exhausted": "failed",
    "early": "queued",
    "joined": "queued",
    "cached": "queued",
    "leader": "running",
}


@pytest.fixture
async def installation(redis: Redis) -> Installation:
    await restore(redis, GOLDEN)
    return Installation(redis)


async def end_all(installation: Installation) -> None:
    """End all waiting items; their waiting times are over."""
    delayed = installation.keys.delayed
    for uid in await installation.redis.zrange(delayed, 0, -1):
        await installation.redis.zadd(delayed, {uid: 1})
    ended = True
    while ended:
        await installation.queue.due()
        items = await installation.claim(100)
        items += (await installation.queue.claim("default", 100, queues=(CACHED,))).items
        for item in items:
            assert await installation.queue.settle(item, DONE) == "succeeded"
        ended = bool(items)


def test_the_dump_is_of_the_schema_that_this_version_writes() -> None:
    assert GOLDEN["pixmill:installation"]["value"]["schema"] == str(SCHEMA)


async def test_the_dump_has_the_keys_and_fields_that_are_written_today(redis: Redis) -> None:
    """A field that is added, renamed or dropped needs a new schema once this one was released."""
    await fill(redis)
    assert _shape(await dump(redis)) == _shape(GOLDEN)


def _shape(records: dict[str, Any]) -> dict[str, Any]:
    shape = {}
    for key, entry in records.items():
        # These names differ from run to run: a message has a random one, and use has its day.
        name = next((word for word in ("message", "usage") if f":{word}:" in key), key)
        shape[name] = (
            entry["type"],
            sorted(entry["value"]) if entry["type"] == "hash" else "ttl_ms" in entry,
        )
    return shape


async def test_a_restored_dump_equals_the_dump(installation: Installation) -> None:
    again = await dump(installation.redis)
    assert {key: entry["value"] for key, entry in again.items()} == {
        key: entry["value"] for key, entry in GOLDEN.items()
    }


async def test_readers_understand_every_record(installation: Installation) -> None:
    records = Records(installation.redis, installation.keys)
    for name, state in STATES.items():
        view = await records.find("default", name)
        assert isinstance(view, ItemView)
        assert (name, view.state) == (name, state)
        assert view.as_dict()["state"] == state
    leader = await records.find("default", "leader")
    assert isinstance(leader, ItemView)
    assert leader.provider_task == orjson.loads(RECEIPT)
    groups = await records.groups(["default/ended", "default/mixed", "default/paused", "default//several"])
    assert [group and group.state for group in groups] == ["completed", "running", "running", "running"]
    assert [group and group.paused for group in groups] == [None, None, "lunch", None]
    assert [group and group.counts.total for group in groups] == [1, 5, 2, 2]
    assert list(await read_pauses(installation.redis, installation.keys)) == ["route:other"]
    letters = await DeadLetters(installation.redis, installation.keys).by_reason()
    assert letters == {"attempts_exhausted": 1, "malformed": 1}
    (message,) = (await Outbox(installation.redis, installation.keys.prefix).take(9, lease_s=9)).messages
    assert message.url == "https://shop.example/hook"


async def test_items_of_a_dead_replica_are_taken_over_and_go_on(installation: Installation) -> None:
    page = await installation.other("w2").reclaim("default", "normal", lease_s=0, cursor="0-0")
    leader, member = page.items
    assert (leader.uid, leader.receipt, leader.permit) == ("default//leader", RECEIPT, '["a permit"]')
    assert member.uid == "default/mixed/i0"
    for item in page.items:
        assert await installation.other("w2").settle(item, DONE, "yes") == "succeeded"
    await end_all(installation)
    assert (await installation.record("default//joined"))["state"] == "succeeded"
    assert (await installation.group("default/mixed"))["state"] == "completed"


async def test_everything_that_waits_is_claimed_once_and_ends(installation: Installation) -> None:
    await installation.take_all()
    await installation.other("w2").reclaim("default", "normal", lease_s=0, cursor="0-0")
    await end_all(installation)
    states = Counter(
        [
            (await installation.record(key.decode().removeprefix("pixmill:item:")))["state"]
            for key in await installation.redis.keys("pixmill:item:*")
        ]
    )
    assert states == {
        "succeeded": 16,
        "queued": 3,
        "running": 2,
        "failed": 2,
        "cancelled": 2,
        "held": 1,
        "expired": 1,
    }


async def test_ended_items_are_retried_and_waiting_ones_cancelled(installation: Installation) -> None:
    for name in ("failed", "cancelled", "late", "held", "exhausted", "tombstone"):
        states = ["failed", "cancelled", "expired", "held"]
        assert (await installation.orders.retry("item", f"default//{name}", states)).ended_or_queued == 1
    for kind, name, ended in (
        ("group", "default/paused", 2),
        ("group", "default/mixed", 4),
        ("item", "default//joined", 1),
        ("item", "default//early", 1),
    ):
        changed = await installation.orders.cancel(kind, name, ["queued", "running"])  # type: ignore[arg-type]  # of two literals
        assert (name, changed.ended_or_queued) == (name, ended)
    await end_all(installation)
    for name in ("failed", "cancelled", "late", "held", "exhausted", "tombstone"):
        assert (name, (await installation.record(f"default//{name}"))["state"]) == (name, "succeeded")
    assert (await installation.group("default/paused"))["state"] == "cancelled"
