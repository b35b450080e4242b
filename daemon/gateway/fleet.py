"""Reads how the fleet is: how many replicas read new work, and since when the oldest item waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from daemon.telemetry.gauges import oldest_waits
from pixmill.records.keys import INTAKE_GROUP, Keys

LIVE_S = 15.0  # a replica reads every few seconds, also when nothing comes


@dataclass(frozen=True, slots=True)
class Fleet:
    """`oldest_wait_s` is the age of the item that waits longest; 0: none waits."""

    replicas: int
    oldest_wait_s: float


async def read_fleet(client: Redis, keys: Keys, routes: Iterable[str]) -> Fleet:
    """The fleet now, over all of `routes`."""
    waits = await oldest_waits(client, keys, routes)
    return Fleet(await _replicas(client, keys), max(waits.values(), default=0.0))


async def _replicas(client: Redis, keys: Keys) -> int:
    try:
        names = await client.xinfo_consumers(keys.jobs, INTAKE_GROUP)
    except ResponseError as error:
        # The first replica makes the stream and its group.
        if not any(mark in str(error).lower() for mark in ("nogroup", "no such key")):
            raise
        return 0
    return sum(name["idle"] < LIVE_S * 1000 for name in names)
