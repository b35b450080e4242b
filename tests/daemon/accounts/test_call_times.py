"""How long calls take: written by replicas as it changes, and found by processes that make none."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.accounts.call_times import CallTimes, least_s, read_call_s
from limiter.quota.quota import parse_quota
from pixmill.records.keys import Keys

KEYS = Keys("pixmill")
QUOTA = parse_quota("q", {"images": "10/min"})


async def test_another_process_finds_how_long_a_call_takes(redis: Redis) -> None:
    call_s = {"default": 4.0004}
    times = CallTimes(redis, KEYS, call_s)
    await times.write()
    assert await read_call_s(redis, KEYS, "default") == 4.0
    assert await read_call_s(redis, KEYS, "slides") is None
    call_s |= {"default": 5.0, "slides": 60.0}
    await times.write()
    assert [await read_call_s(redis, KEYS, name) for name in call_s] == [5.0, 60.0]


async def test_only_what_changed_is_written(redis: Redis) -> None:
    call_s = {"default": 4.0, "slides": 60.0}
    times = CallTimes(redis, KEYS, call_s)
    await times.write()
    await redis.hset(KEYS.call_s, mapping={"default": "9", "slides": "9"})
    call_s["slides"] = 61.0
    await times.write()
    assert await redis.hgetall(KEYS.call_s) == {b"default": b"9", b"slides": b"61.0"}


def test_many_calls_need_the_time_of_the_tightest_bound() -> None:
    assert least_s((), 9, None, 4) is None
    assert least_s((), 9, 2.0, 4) == 6.0
    assert least_s((QUOTA,), 20, None, 4) == QUOTA.optimum_s(20, 0.0)
    assert least_s((QUOTA,), 20, 100.0, 1) == 2000.0
