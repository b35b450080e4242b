"""When will it be done, and what holds it back: arithmetic on quotas that are known.

The bound is what the route's dispatcher last waited for; the time follows from the quotas, the work ahead under the
fair turns, and how long a call takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from redis.asyncio import Redis

from daemon.dispatcher import Dispatcher
from daemon.items import GroupCounts
from daemon.keys import Keys
from daemon.routes import Route

LATENCY_WEIGHT = 0.1  # of the newest call in the running average


class Estimate(NamedTuple):
    """`eta_s` is None while nothing is known of the route's pace."""

    eta_s: float | None
    bound: str | None


class Estimator:
    """Knows this replica's dispatchers and how long calls take on each route."""

    def __init__(self, client: Redis, keys: Keys, dispatchers: Mapping[str, Dispatcher], slots: int) -> None:
        self._client = client
        self._keys = keys
        self._dispatchers = dispatchers
        self._slots = slots
        self._latency_s: dict[str, float] = {}

    def observe(self, route: str, seconds: float) -> None:
        """A call took this long."""
        known = self._latency_s.get(route)
        self._latency_s[route] = seconds if known is None else known + LATENCY_WEIGHT * (seconds - known)

    async def batch(self, counts: GroupCounts) -> Estimate:
        """For a batch whose items share the route of its first one (most do)."""
        route_name = await self._route_of(counts.gid)
        dispatcher = self._dispatchers.get(route_name)
        if dispatcher is None:
            return Estimate(None, f"route:{route_name} is not served here")
        left = counts.total - counts.ended - counts.held
        if left <= 0:
            return Estimate(0.0, None)
        waiting = await self._client.zcard(self._keys.waiting(route_name))
        active = await self._client.zcard(self._keys.active)
        ours = left - counts.running
        # Sources take turns: beside each of ours, every other batch has at most one of its own.
        ahead = min(max(0, waiting - ours), ours * max(0, active - 1))
        return Estimate(self._eta_s(dispatcher.route, left + ahead), dispatcher.bound)

    def _eta_s(self, route: Route, calls: int) -> float | None:
        service_s = self._latency_s.get(route.name)
        if service_s is None and not route.quotas:
            return None
        service_s = service_s or 0.0
        by_quota = max((quota.optimum_s(calls, service_s) for quota in route.quotas), default=0.0)
        by_slots = -(-calls // self._slots) * service_s
        return round(max(by_quota, by_slots), 1)

    async def _route_of(self, gid: str) -> str:
        route: Any = await self._client.hget(self._keys.group(gid), "route")
        return route.decode() if route else ""
