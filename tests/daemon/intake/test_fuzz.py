"""Ten thousand entries that are good, bad or nonsense: the intake takes them all, and each ends in exactly one way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest
import structlog
from redis.asyncio import Redis

from daemon.compat.studio import studio_types
from daemon.intake.reader import _BUG
from daemon.intake.refusals import UNKNOWN_TYPE_READS
from pixmill.contract import Batch, Job, Rejection, parse_entry
from tests.daemon.harness import Installation
from tests.daemon.intake.mutations import Entry, Mutator
from tests.daemon.queue.queue_reading import read_all

ENTRIES = 10_000
SEED = 20261122
LOOKS = 200  # more than enough for every pending entry to be read again as often as it may be


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Do not log thousands of refusals."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.mark.timeout(300)
async def test_every_one_of_ten_thousand_mutated_entries_is_accounted_for(redis: Redis) -> None:
    installation, mutator = Installation(redis), Mutator(SEED)
    # Every trace of an entry echoes its `traceparent`, so each trace leads to its entry.
    sent = {f"n{number}": mutator.entry() for number in range(ENTRIES)}
    await add(redis, installation.keys.jobs, sent)
    await installation.take_all()
    waiting = await redis.xlen(installation.keys.jobs)
    assert waiting == (await redis.xpending(installation.keys.jobs, "intake"))["pending"]
    assert waiting > 100, "unknown types wait for a newer replica"
    await read_again_until_empty(installation)

    events, dead = await left_behind(installation)
    ends = Counter(end_of(fields, events.get(tag, []), dead.get(tag, [])) for tag, fields in sent.items())
    assert ends.total() == ENTRIES
    assert set(ends) == {"accepted", "duplicate", "conflict", "order", "rejected", "unknown type"}
    assert min(ends.values()) > 100, f"every way is tried often: {ends}"
    assert events.keys() | dead.keys() <= sent.keys()

    reading = await read_all(redis, installation.keys)
    assert (reading.strangers, reading.torn) == ([], [])
    for gid, group in reading.groups.items():
        counts = sum(int(count) for name, count in group.items() if name in COUNTED)
        assert counts == int(group["total"]), gid


COUNTED = {
    *("queued", "throttled", "retry_wait", "running"),
    *("succeeded", "failed", "cancelled", "expired", "held"),
}


def end_of(fields: Entry, events: list[tuple[str, Any]], dead: list[dict[str, str]]) -> str:
    """The end of the entry; fails if it has none or two."""
    kinds = [kind for kind, _ in events]
    if dead:
        assert (len(dead), kinds) == (1, ["job.rejected"]), (fields, kinds, dead)
        error = orjson.loads(dead[0]["error"])
        assert error["message"] != _BUG, fields
        assert dead[0]["reason"] == events[0][1]["code"] == error["code"]
        return "unknown type" if error["code"] == "unknown_type" else "rejected"
    try:
        payload = parse_entry(fields, studio_types("studio"))
    except Rejection as rejection:
        raise AssertionError(f"{fields} was to be rejected: {rejection.code}") from None
    if not isinstance(payload, (Job, Batch)):
        assert events == [], (fields, kinds)
        return "order"
    return _end_of_work(payload, [event for event in events if event[0] in ANSWERS])


ANSWERS = {"job.queued", "job.duplicate", "job.rejected"}  # the later events are about the items' runs


def _end_of_work(payload: Job | Batch, answers: list[tuple[str, Any]]) -> str:
    jobs = payload.jobs() if isinstance(payload, Batch) else [payload]
    items = {ident for job in jobs for ident in job.item_ids()}
    kinds = {kind for kind, _ in answers}
    named = {data["item"] for _, data in answers}
    if kinds == {"job.duplicate"} and len(answers) == 1:
        return "duplicate"
    if kinds == {"job.rejected"} and len(answers) == 1:
        assert answers[0][1]["code"] == "id_conflict"
        return "conflict"
    # Every item has an event: queued, or a duplicate of one that another part has brought before.
    assert named == items, (payload, answers)
    queued = Counter(data["item"] for kind, data in answers if kind == "job.queued")
    others = Counter(data["item"] for kind, data in answers if kind != "job.queued")
    assert not queued.keys() & others.keys()
    return "accepted" if queued else "duplicate"


async def add(redis: Redis, stream: str, entries: dict[str, Entry]) -> None:
    client: Any = redis
    pipe = client.pipeline(transaction=False)
    for number, (tag, fields) in enumerate(entries.items()):
        pipe.xadd(stream, {**fields, b"traceparent": tag.encode()})
        if number % 500 == 0:
            await pipe.execute()
    await pipe.execute()


async def read_again_until_empty(installation: Installation) -> None:
    """Read pending entries again, as after their lease."""
    installation.intake._lease_s = 0
    for _ in range(LOOKS):
        if not await installation.redis.xlen(installation.keys.jobs):
            break
        await installation.intake.reclaim()
    assert await installation.redis.xlen(installation.keys.jobs) == 0
    assert (await installation.redis.xpending(installation.keys.jobs, "intake"))["pending"] == 0
    assert UNKNOWN_TYPE_READS > 1


async def left_behind(
    installation: Installation,
) -> tuple[dict[str, list[tuple[str, Any]]], dict[str, list[dict[str, str]]]]:
    """Events and dead letters by their entry."""
    events: dict[str, list[tuple[str, Any]]] = {}
    for kind, data in await installation.events():
        events.setdefault(data["cloudevent"]["traceparent"], []).append((kind, data))
    dead: dict[str, list[dict[str, str]]] = {}
    for letter in await installation.dead():
        tag = orjson.loads(letter["ids"])["cloudevent"]["traceparent"]
        dead.setdefault(tag, []).append(letter)
    return events, dead
