"""The step that joins repeated requests does as much for one caller who repeats a body all day as for any other."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.gateway.work.joining import joined_id
from tests.daemon.gateway.rig import Door


async def join(door: Door, ident: str, count: int | None) -> str:
    return await joined_id(door.gateway, "digest", ident, "default//", kept_s=600, count=count)


async def lookups(redis: Redis) -> int:
    """How many fields and members the server's scripts have looked up in records of sends and of work."""
    stats = await redis.info("commandstats")
    names = ("hmget", "hgetall", "zrevrange")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


async def test_new_work_looks_at_no_earlier_send(quiet_door: Door, redis: Redis) -> None:
    for number in range(100):
        before = await lookups(redis)
        assert await join(quiet_door, f"img-{number}", 0) == f"img-{number}"
        assert await lookups(redis) == before


async def test_a_repetition_looks_at_the_newest_sends_alone(quiet_door: Door, redis: Redis) -> None:
    for number in range(300):
        await join(quiet_door, f"img-{number}", 0)
    joined = {await join(quiet_door, f"new-{number}", 1) for number in range(64)}
    assert joined == {f"img-{number}" for number in range(300 - 64, 300)}, "each is joined once"
    before = await lookups(redis)
    assert await join(quiet_door, "new", 1) == "new"
    assert await lookups(redis) - before <= 2 * 64 + 1
