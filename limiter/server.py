"""The common base of a limiter's parts: the connection, the key names, the clock, and the state of the server."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Final

import redis.asyncio

from limiter.keys import LimiterKeys
from limiter.permit import Permit
from limiter.plan import Arg, Plan, plan_for
from limiter.quota.quota import Quota

_PLANS_KEPT: Final = 1024


class Server:
    """One server as one limiter sees it; see `Limiter` for the parameters."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        prefix: str,
        *,
        lease_s: float = 15.0,
        clock: Callable[[], int] | None = None,
    ) -> None:
        if not (math.isfinite(lease_s) and lease_s > 0):
            raise ValueError(f"lease_s must be a positive number of seconds, not {lease_s}")
        # How long a place in flight is kept without a renewal.
        self.lease_s: Final = lease_s
        self._client = client
        self._keys = LimiterKeys(prefix)
        self._lease_us = round(lease_s * 1e6)
        # The last known epoch of the stored state. A process that knows one notices when the state is lost.
        self._epoch = ""
        self._skew_us = 0
        self._clock = clock
        # Unique over the fleet without a round trip: 64 random bits a limiter, then a count.
        origin = secrets.token_hex(8)
        self._grant_ids: Iterator[str] = (f"{origin}{number:x}" for number in count())
        self._plans: dict[tuple[object, ...], Plan] = {}

    def _now_us(self) -> str | int:
        """The test clock as scripts expect it; if empty, they take the server's time."""
        return "" if self._clock is None else self._clock()

    def _wall_us(self) -> int:
        """Roughly the server's time, only to choose the midnights near it."""
        return time.time_ns() // 1000 + self._skew_us if self._clock is None else self._clock()

    async def _time_us(self) -> int:
        """The server's own time."""
        if self._clock is not None:
            return self._clock()
        seconds, micros = await self._client.time()
        return int(seconds) * 1_000_000 + int(micros)

    def _set_wall_us(self, server_us: int) -> None:
        """Note the server's time if this process's clock is days away from it."""
        self._skew_us = server_us - time.time_ns() // 1000

    def _record(self, permit: Permit) -> str:
        """The key of the request's record, in which a repeated request finds its grant."""
        return self._keys.of(permit.quotas[0], "permit", permit.request_id)

    def _plan(self, quotas: Sequence[Quota], costs: Mapping[str, int]) -> Plan:
        """The cached plan for such calls. Errors: QuotaError, see `plan_for`."""
        # Look the plan up by names and compare the quotas, mostly by identity: hashing whole quotas costs more than
        # the rest of a call's preparation.
        key = (*(quota.name for quota in quotas), *costs.items())
        plan = self._plans.get(key)
        if plan is None or plan.quotas != tuple(quotas):
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[key] = plan_for(self._keys, quotas, costs)
        return plan

    def _rows(self, plan: Plan) -> tuple[Arg, ...]:
        """The plan's rows for a call now."""
        return plan.rows_at(self._wall_us()) if plan.days else plan.rows


def text_of(reply: bytes | str) -> str:
    """A reply as text, whether or not the client decodes."""
    return reply.decode() if isinstance(reply, bytes) else reply
