"""Gauges that are read from Redis, and so are the same on every replica: query them with `max`, never `sum`.

They are what Redis said at one moment, swapped in as a whole. What is not known is not exported, because a 0
that means "no idea" would scale a fleet down and silence an alert; hence a collector and not settable gauges.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon.queue.keys import INTAKE_GROUP, LANES, Keys
from daemon.telemetry.metrics import Metrics
from limiter import Limiter, QuotaState
from limiter.quota.quota import Quota

WAITING_STATES = ("queued", "throttled", "retry_wait")
STATES = (*WAITING_STATES, "running", "held")

FRESH_S = 1.0  # how long a reading answers further calls
STALE_S = 15.0  # how long the last reading is shown when Redis no longer answers
TIMEOUT_S = 2.0  # a scrape must not wait for a Redis that hangs

_MANY = 10**9  # items; enough for the steady pace of any limit, whose counts have nine digits at most


class RedisGauges(Collector):
    """Reads the queue and the quotas, and adds them to the registry of `metrics`.

    `routes` tells the configured routes with the quotas that each spends; it is asked for each reading.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        limiter: Limiter,
        routes: Callable[[], Mapping[str, Sequence[Quota]]],
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._keys = keys
        self._limiter = limiter
        self._routes_now = routes
        self._routes = routes()
        self._metrics = metrics
        self._monotonic = monotonic
        self._one_at_a_time = asyncio.Lock()
        self._tried_at = self._read_at = float("-inf")
        self._families: Sequence[GaugeMetricFamily] = ()
        metrics.registry.register(self)

    async def refresh(self) -> None:
        """Read again, unless that was tried less than `FRESH_S` ago. A Redis that is away raises nothing."""
        async with self._one_at_a_time:
            if self._monotonic() - self._tried_at < FRESH_S:
                return
            self._routes = self._routes_now()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    families = [*await self._queue(), *_quota_gauges(await self._quota_states())]
            except (RedisError, OSError, TimeoutError):
                return  # who needs Redis says so; here the figures grow stale and then disappear
            finally:
                self._tried_at = self._monotonic()
            self._families, self._read_at = families, self._tried_at

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """What was read, for the registry; nothing when that is too long ago."""
        return self._families if self._monotonic() - self._read_at < STALE_S else ()

    async def _quota_states(self) -> list[QuotaState]:
        quotas = {quota.name: quota for quotas in self._routes.values() for quota in quotas}
        return await self._limiter.snapshot(list(quotas.values()))

    async def _queue(self) -> list[GaugeMetricFamily]:
        keys = self._keys
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.hgetall(keys.depth)
        pipe.zcard(keys.active)
        pipe.exists(keys.jobs)
        pipe.xlen(keys.dead)
        for route in self._routes:
            pipe.zrange(keys.waiting(route), 0, 0, withscores=True)
        (seconds, micros), depth_fields, active, has_stream, dead, *oldest = await pipe.execute()
        depth = self._depth(depth_fields)
        since_us = {route: first[0][1] for route, first in zip(self._routes, oldest, strict=True) if first}
        now_us = seconds * 1_000_000 + micros
        return [
            _gauge("queue_depth", "Items that have not ended.", depth, "route", "lane", "state"),
            _gauge(
                "queue_oldest_seconds",
                "Age of the item that waits longest; 0: none waits.",
                {(route,): max(0.0, now_us - since_us.get(route, now_us)) / 1e6 for route in self._routes},
                "route",
            ),
            _gauge(
                "backlog_seconds",
                "How long the quotas of a route need for what waits in it; absent: not known yet.",
                self._backlog(depth),
                "route",
            ),
            _gauge("batches_active", "Batches that have not ended.", {(): active}),
            _gauge(
                "dead_letters_kept",
                "Dead letters that are kept; past about 100,000 the oldest go.",
                {(): dead},
            ),
            *await self._stream(bool(has_stream)),
        ]

    def _depth(self, fields: Mapping[bytes, bytes]) -> dict[tuple[str, ...], int]:
        # Zeros for all that is configured; and a route that was taken out of the configuration stays visible.
        depth: dict[tuple[str, ...], int] = {
            (route, lane, state): 0 for route in self._routes for lane in LANES for state in STATES
        }
        return {**depth, **{tuple(field.decode().split("|")): int(count) for field, count in fields.items()}}

    async def _stream(self, exists: bool) -> list[GaugeMetricFamily]:
        groups: list[dict[str, Any]] = await self._client.xinfo_groups(self._keys.jobs) if exists else []
        group = next((group for group in groups if group["name"] == INTAKE_GROUP.encode()), None)
        pending = 0 if group is None else group["pending"]
        lag = 0 if not exists else None if group is None else group.get("lag")  # Redis 6.2 has none
        return [
            _gauge(
                "stream_lag",
                "Stream entries not read yet; absent: unknown.",
                {} if lag is None else {(): lag},
            ),
            _gauge("stream_pending", "Stream entries read and not yet accepted.", {(): pending}),
        ]

    def _backlog(self, depth: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], float]:
        call_s = self._mean_call_s()
        backlog: dict[tuple[str, ...], float] = {}
        for route, quotas in self._routes.items():
            waiting = sum(depth[route, lane, state] for lane in LANES for state in WAITING_STATES)
            pace_s = pace_s_per_item(quotas, call_s.get(route))
            if waiting <= 0:
                backlog[route,] = 0.0
            elif pace_s is not None:
                backlog[route,] = waiting * pace_s
        return backlog

    def _mean_call_s(self) -> dict[str, float]:
        """By route, how long a provider call takes on average, as this replica has seen it."""
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        for sample in (
            s for family in self._metrics.provider_latency_seconds.collect() for s in family.samples
        ):
            for suffix, totals in (("_sum", sums), ("_count", counts)):
                if sample.name.endswith(suffix):
                    route = sample.labels["route"]
                    totals[route] = totals.get(route, 0.0) + sample.value
        return {route: sums[route] / count for route, count in counts.items() if count}


def pace_s_per_item(quotas: Sequence[Quota], call_s: float | None) -> float | None:
    """Seconds that the tightest of `quotas` needs for one image after another, in the long run.

    A limit on calls in flight needs `call_s`, the length of a call, for that. While it is unknown the rates
    alone decide; None when there are none, because then any number would be invented. 0.0 without quotas.
    """
    paces = [_pace_s(quota, call_s or 0.0) for quota in quotas]
    pace_s = max(paces, default=0.0)
    return None if paces and pace_s == 0.0 else pace_s


def _pace_s(quota: Quota, call_s: float) -> float:
    # Polls have a limit of their own and are not what an image costs.
    limits = Quota(quota.name, tuple(limit for limit in quota.limits if limit.unit != "polls"))
    return (limits.optimum_s(_MANY + 1, call_s) - limits.optimum_s(1, call_s)) / _MANY


def _quota_gauges(states: Sequence[QuotaState]) -> list[GaugeMetricFamily]:
    units = [((state.quota, unit.unit), unit) for state in states for unit in state.units]
    return [
        _gauge(
            "quota_capacity",
            "What a limit allows at once.",
            {k: u.capacity for k, u in units},
            "quota",
            "unit",
        ),
        _gauge(
            "quota_available", "What it would grant now.", {k: u.available for k, u in units}, "quota", "unit"
        ),
        _gauge(
            "quota_in_flight", "Calls that hold a lease.", {(s.quota,): s.in_flight for s in states}, "quota"
        ),
        _gauge(
            "quota_cooldown_seconds",
            "Rest of a pause that the provider asked for; 0: none.",
            {(state.quota,): state.cooldown_s for state in states},
            "quota",
        ),
        _gauge(
            "quota_rate_scale",
            "Share of the configured rate that is granted; below 1 where refusals taught so.",
            {(state.quota,): state.scale for state in states},
            "quota",
        ),
    ]


def _gauge(name: str, help_: str, values: Mapping[tuple[str, ...], float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"pixmill_{name}", help_, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
