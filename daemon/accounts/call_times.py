"""How long a provider's call takes on each route, shared by the fleet, and the time that many calls need.

Only a replica sees calls. It writes its running averages to the hash `PREFIX:call_s` (seconds by route), where a
process without calls finds them. The newest replica's word counts; their averages differ little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from redis.asyncio import Redis

from daemon.broker.loops import run_forever
from limiter.quota.quota import Quota
from pixmill.records.keys import Keys

WRITE_EVERY_S = 1.0


class CallTimes:
    """Shares the averages of this replica: `call_s` is read each time, in seconds by route."""

    def __init__(self, client: Redis, keys: Keys, call_s: Mapping[str, float]) -> None:
        self._client = client
        self._keys = keys
        self._call_s = call_s
        self._written: dict[str, float] = {}

    async def run(self) -> None:
        await run_forever("call times", self._step)

    async def _step(self) -> None:
        await self.write()
        await asyncio.sleep(WRITE_EVERY_S)

    async def write(self) -> None:
        """Write the averages that changed."""
        now = {route: round(seconds, 3) for route, seconds in self._call_s.items()}
        changed: dict[Any, Any] = dict(now.items() - self._written.items())
        if changed:
            await self._client.hset(self._keys.call_s, mapping=changed)
        self._written = now


async def read_call_s(client: Redis, keys: Keys, route: str) -> float | None:
    """How long a call takes on a route, in seconds; None while no replica knows."""
    written: Any = await client.hget(keys.call_s, route)
    return None if written is None else float(written)


def least_s(quotas: Iterable[Quota], calls: int, call_s: float | None, slots: int) -> float | None:
    """Seconds that `calls` need under the quotas and with `slots` workers, the last call included.

    None if neither a quota nor the length of a call is known.
    """
    limits = list(quotas)
    if call_s is None and not limits:
        return None
    service_s = call_s or 0.0
    by_quota = max((quota.optimum_s(calls, service_s) for quota in limits), default=0.0)
    return max(by_quota, -(-calls // slots) * service_s)


def ahead_of(waiting: int, ours: int, active: int) -> int:
    """How many of a route's `waiting` items come before the last of `ours`, the waiting items of one batch.

    Batches take turns: for each item of one batch, every other `active` batch starts at most one.
    """
    return min(max(0, waiting - ours), ours * max(0, active - 1))
