"""What every part of a limiter needs: the connection, the key names, the clock, and what was learned of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import redis.asyncio

from limiter.keys import LimiterKeys
from limiter.permit import Permit
from limiter.plan import Plan, plan_for
from limiter.quota.quota import Quota

_PLANS_KEPT: Final = 1024


class Server:
    """One server as one limiter sees it. `clock` replaces its time (integer µs) in every script."""

    def __init__(
        self, client: redis.asyncio.Redis, keys: LimiterKeys, clock: Callable[[], int] | None
    ) -> None:
        self.client = client
        self.keys = keys
        # Which life of the stored state was seen last: whoever has seen one can tell when it is gone.
        self.epoch = ""
        self.skew_us = 0
        self._clock = clock
        self._plans: dict[tuple[object, ...], Plan] = {}

    def now_us(self) -> str | int:
        """The test clock as scripts want it; empty: they ask their own."""
        return "" if self._clock is None else self._clock()

    def wall_us(self) -> int:
        """About the server's time, only to say which days are near it."""
        return time.time_ns() // 1000 + self.skew_us if self._clock is None else self._clock()

    async def time_us(self) -> int:
        """The server's own time, asked for."""
        if self._clock is not None:
            return self._clock()
        seconds, micros = await self.client.time()
        return int(seconds) * 1_000_000 + int(micros)

    def is_at(self, server_us: int) -> None:
        """The server has told its time, and ours is days away from it; the server's counts."""
        self.skew_us = server_us - time.time_ns() // 1000

    def record(self, permit: Permit) -> str:
        """The key under which the permit's request finds its grant again."""
        return self.keys.permit(permit.quotas[0], permit.request_id)

    def plan(self, quotas: Sequence[Quota], costs: Mapping[str, int]) -> Plan:
        """The plan for such calls, made once. Errors: QuotaError, see `plan_for`."""
        # Names find the plan, and equality (mostly identity, hence cheap) proves it: hashing whole quotas
        # costs more than the rest of a call's preparation.
        key = (*(quota.name for quota in quotas), *costs.items())
        plan = self._plans.get(key)
        if plan is None or plan.quotas != tuple(quotas):
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[key] = plan_for(self.keys, quotas, costs)
        return plan


def text_of(reply: bytes | str) -> str:
    """A reply as text, whether or not the client decodes."""
    return reply.decode() if isinstance(reply, bytes) else reply
