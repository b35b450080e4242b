"""Jobs that vanish from their stream before they are accepted are counted, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from daemon.queue.jobs_stream import JobsStream, look_at_jobs
from pixmill.records.keys import INTAKE_GROUP
from tests.daemon.harness import Installation

JOBS = "pixmill:jobs"
SENT = [
    {"id": "job", "prompt": "x"},
    {"id": "job", "prompt": "another"},
    {"id": "several", "prompt": "x", "n": 3},
    "no json",
]


async def lost(installation: Installation) -> int | None:
    found = await look_at_jobs(installation.redis, installation.keys)
    return None if found is None else found.lost


async def test_entries_that_ended_in_any_way_are_not_lost(redis: Redis) -> None:
    installation = Installation(redis)
    for data in SENT:
        await installation.add(data)
    await installation.batch("b1", 3)
    await installation.add({"batch": "b1"}, type="pixmill.cancel.v1")
    await installation.add({"batch": "b1"}, type="pixmill.retry.v1")
    await installation.take_all()
    assert await redis.xlen(JOBS) == 0
    assert await lost(installation) == 0


async def test_a_loss_is_still_known_after_later_jobs_were_read(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "before", "prompt": "x"})
    for number in range(5):
        await installation.add({"id": f"j{number}", "prompt": "x"})
    await redis.xtrim(JOBS, maxlen=2, approximate=False)
    assert await lost(installation) == 3
    await installation.submit({"id": "after", "prompt": "x"})
    assert await lost(installation) == 3


async def test_an_entry_that_was_trimmed_after_it_was_read_is_accepted_and_not_lost(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "first", "prompt": "x"})
    await installation.add({"id": "read", "prompt": "x"})
    entries = await installation.intake._read()
    await redis.xtrim(JOBS, maxlen=0, approximate=False)
    assert await lost(installation) == 0
    await installation.intake.take(entries)
    assert (await installation.record("default//read"))["state"] == "queued"
    assert await lost(installation) == 0


async def test_an_entry_that_two_replicas_take_ends_once(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.intake.create_group()
    await installation.add({"id": "twice", "prompt": "x"})
    await installation.add("no json")
    entries = await installation.intake._read()
    for _ in range(2):
        await installation.intake.take(entries)
    await installation.add({"id": "next", "prompt": "x"})
    await redis.xtrim(JOBS, maxlen=0, approximate=False)
    assert await lost(installation) == 1


async def test_an_entry_whose_group_was_destroyed_meanwhile_is_accepted_and_not_lost(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "first", "prompt": "x"})
    await installation.add({"id": "read", "prompt": "x"})
    entries = await installation.intake._read()
    await redis.xgroup_destroy(JOBS, INTAKE_GROUP)
    await installation.intake.take(entries)
    assert await lost(installation) == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["send", "send", "read", "take", "trim", "delete"]), max_size=20))
async def test_whatever_happens_lost_is_what_vanished_unread(redis: Redis, steps: list[str]) -> None:
    await redis.flushdb()
    installation = Installation(redis)
    await installation.submit({"id": "first", "prompt": "x"})
    unread: list[str] = []
    in_hand: Sequence[tuple[str, Mapping[bytes, bytes]]] = []
    gone = 0
    for number, step in enumerate(steps):
        match step:
            case "send":
                unread.append(await installation.add({"id": f"j{number}", "prompt": "x"}))
            case "read" if unread and not in_hand:
                in_hand, unread = await installation.intake._read(), []
            case "take":
                await installation.intake.take(in_hand)
                await installation.take_all()
                unread, in_hand = [], []
            case "trim":
                keep = len(unread) // 2
                gone += len(unread) - keep
                unread = unread[len(unread) - keep :]
                await redis.xtrim(JOBS, maxlen=keep, approximate=False)
            case "delete" if unread:
                gone += await redis.xdel(JOBS, unread.pop())
    await installation.intake.take(in_hand)
    assert await lost(installation) == gone


async def test_a_stream_that_was_used_before_the_count_began_has_lost_nothing(redis: Redis) -> None:
    installation = Installation(redis)
    entries = [await redis.xadd(JOBS, {"data": "{}"}) for _ in range(5)]
    await redis.xdel(JOBS, *entries[:3])
    assert await lost(installation) is None
    await installation.queue.install(records_s=1, failed_s=1, starts=True)
    assert await lost(installation) == 0
    await redis.xtrim(JOBS, maxlen=1, approximate=False)
    await installation.queue.install(records_s=1, failed_s=1, starts=False)
    assert await lost(installation) == 1


async def test_a_stream_that_was_deleted_as_a_whole_is_counted_anew(redis: Redis) -> None:
    installation = Installation(redis)
    for number in range(3):
        await installation.submit({"id": f"j{number}", "prompt": "x"})
    await redis.delete(JOBS)
    await installation.queue.install(records_s=1, failed_s=1, starts=True)
    assert await look_at_jobs(redis, installation.keys) is None
    for _ in range(2):
        await redis.xadd(JOBS, {"data": "{}"})
    assert await lost(installation) is None
    await installation.queue.install(records_s=1, failed_s=1, starts=False)
    assert await lost(installation) == 0
    await redis.xtrim(JOBS, maxlen=0, approximate=False)
    assert await lost(installation) == 2


def test_redis_6_2_counts_no_entries_so_neither_lag_nor_loss_is_known() -> None:
    groups = [{"name": b"others", "pending": 9}, {"name": INTAKE_GROUP.encode(), "pending": 2}]
    found = JobsStream.of({"length": 5}, groups, 7)
    assert found == JobsStream(length=5, pending=2, lag=None, lost=None, is_read=True)
