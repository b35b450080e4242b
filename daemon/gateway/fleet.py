"""Reads how the fleet is: how many replicas read new work, and since when the oldest item waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from daemon.queue.keys import INTAKE_GROUP, Keys

LIVE_S = 15.0  # a replica reads every few seconds, also when nothing comes


@dataclass(frozen=True, slots=True)
class Fleet:
    """`oldest_wait_s` is the age of the item that waits longest; 0: none waits."""

    replicas: int
    oldest_wait_s: float


async def read_fleet(client: Redis, keys: Keys, routes: Iterable[str]) -> Fleet:
    """The fleet now, over all of `routes`."""
    pipe = client.pipeline(transaction=False)
    pipe.time()
    for route in routes:
        pipe.zrange(keys.waiting(route), 0, 0, withscores=True)
    (seconds, micros), *firsts = await pipe.execute()
    now_us = int(seconds) * 1_000_000 + int(micros)
    since_us = min((first[0][1] for first in firsts if first), default=now_us)
    return Fleet(await _replicas(client, keys), max(0.0, now_us - since_us) / 1e6)


async def _replicas(client: Redis, keys: Keys) -> int:
    try:
        names = await client.xinfo_consumers(keys.jobs, INTAKE_GROUP)
    except ResponseError:  # the first replica makes the stream and its group
        return 0
    return sum(name["idle"] < LIVE_S * 1000 for name in names)
