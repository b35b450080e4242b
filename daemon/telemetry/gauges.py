"""Exports gauges that are read from Redis. Every replica has the same ones: query them with `max`, never `sum`.

All figures come from one moment. An unknown figure is not exported, because a false 0 would scale a fleet down and
silence an alert. So this is a collector, not a set of settable gauges.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from daemon.broker.loops import run_forever
from daemon.queue.jobs_stream import JobsStream, look_at_jobs
from daemon.telemetry.metrics import Metrics
from limiter import Limiter, QuotaState
from limiter.quota.quota import Quota
from pixmill.records.keys import LANES, Keys

WAITING_STATES = ("queued", "throttled", "retry_wait")
STATES = (*WAITING_STATES, "running", "held")

EVERY_S = 2.0
FRESH_S = 1.0  # how long a reading serves further calls
STALE_S = 15.0  # how long the last reading is shown when Redis no longer answers
TIMEOUT_S = 2.0  # a scrape must not wait for a Redis that hangs
KEEPS_EVERY_S = 30.0  # whether Redis keeps what is written changes by a person's hand alone

NO_JOBS = JobsStream(length=0, pending=0, lag=0, lost=0, is_read=False)  # nothing was ever sent

_MANY = 10**9  # items; enough for the steady pace of any limit, whose counts have nine digits at most

_HELP_AND_LABELS: Mapping[str, tuple[str, ...]] = {
    "queue_depth": ("Items that have not ended.", "route", "lane", "state"),
    "queue_oldest_seconds": ("Age of the item that waits longest; 0: none waits.", "route"),
    "backlog_seconds": (
        "How long a route's quotas need for its waiting items; absent: not known yet.",
        "route",
    ),
    "batches_active": ("Batches that have not ended.",),
    "dead_letters_kept": ("Dead letters that are kept; past about 100,000 the oldest go.",),
    "redis_aof_enabled": ("1 while Redis keeps an append-only file, 0 while it does not; absent: unknown.",),
    "stream_lag": ("Stream entries not read yet; absent: unknown.",),
    "jobs_lost": (
        "Jobs that vanished from their stream before they were accepted, since it exists; absent: unknown.",
    ),
    "stream_pending": ("Stream entries read and not yet accepted.",),
    "quota_capacity": ("The most that a limit allows at once.", "quota", "unit"),
    "quota_available": ("The amount that it would grant now.", "quota", "unit"),
    "quota_in_flight": ("Calls that hold a lease.", "quota"),
    "quota_cooldown_seconds": ("Rest of a pause that the provider demanded; 0: none.", "quota"),
    "quota_pause_seconds": (
        "Rest of a pause of a used-up account or by an operator; +Inf: until it is resumed; 0: none.",
        "quota",
    ),
    "route_silent_seconds": (
        "Rest of the pause or cooldown of a route's quotas; +Inf: until it is resumed; 0: none.",
        "route",
    ),
    "quota_rate_scale": ("Share of the configured rate that is granted; below 1 after refusals.", "quota"),
}


class RedisGauges(Collector):
    """Reads the queue and the quotas, and adds them to the registry of `metrics`.

    `routes` returns the configured routes with the quotas that each spends; it is called for each reading. `equals`
    are the routes of each `any` route, which has no quotas of its own.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        limiter: Limiter,
        routes: Callable[[], Mapping[str, Sequence[Quota]]],
        metrics: Metrics,
        *,
        equals: Mapping[str, Sequence[str]] = {},
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._keys = keys
        self._limiter = limiter
        self._routes_now = routes
        self._routes = routes()
        self._metrics = metrics
        self._equals = equals
        self._monotonic = monotonic
        self._one_at_a_time = asyncio.Lock()
        self._tried_at = self._read_at = float("-inf")
        self._families: Sequence[GaugeMetricFamily] = ()
        self._keeps: Sequence[GaugeMetricFamily] = ()
        self._keeps_at = float("-inf")
        metrics.registry.register(self)

    async def run(self) -> None:
        """Refresh every `EVERY_S`."""
        await run_forever("gauges", self._step)

    async def _step(self) -> None:
        await self.refresh()
        await asyncio.sleep(EVERY_S)

    async def refresh(self) -> None:
        """Read again, unless that was tried less than `FRESH_S` ago. A Redis that is away raises nothing."""
        async with self._one_at_a_time:
            if self._monotonic() - self._tried_at < FRESH_S:
                return
            self._routes = self._routes_now()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    quotas = {quota.name: quota for quotas in self._routes.values() for quota in quotas}
                    polls = [quota.polls for quota in quotas.values()]
                    states = await self._limiter.snapshot([*quotas.values(), *polls])
                    of_quotas = _quota_gauges(states[: len(quotas)], states[len(quotas) :])
                    silent = _gauge("route_silent_seconds", self._silent(states[: len(quotas)]))
                    families = [*await self._queue(), *of_quotas, silent, *await self._keeping()]
            except (RedisError, OSError, TimeoutError):
                return  # the parts that need Redis log it; here the figures grow stale and then disappear
            finally:
                self._tried_at = self._monotonic()
            self._families, self._read_at = families, self._tried_at

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The last reading, for the registry; nothing when it is older than `STALE_S`."""
        return self._families if self._monotonic() - self._read_at < STALE_S else ()

    async def _queue(self) -> list[GaugeMetricFamily]:
        keys = self._keys
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(keys.depth)
        pipe.zcard(keys.active)
        pipe.xlen(keys.dead)
        depth_fields, active, dead = await pipe.execute()
        depth = self._depth(depth_fields)
        waits = await oldest_waits(self._client, keys, self._routes)
        return [
            _gauge("queue_depth", depth),
            _gauge("queue_oldest_seconds", {(route,): wait_s for route, wait_s in waits.items()}),
            _gauge("backlog_seconds", self._backlog(depth)),
            _gauge("batches_active", {(): active}),
            _gauge("dead_letters_kept", {(): dead}),
            *await self._stream(),
        ]

    async def _keeping(self) -> Sequence[GaugeMetricFamily]:
        """Whether Redis keeps an append-only file, read every `KEEPS_EVERY_S`; a service may not report it."""
        if self._monotonic() - self._keeps_at >= KEEPS_EVERY_S:
            try:
                info: Any = await self._client.info("persistence")
            except ResponseError:
                info = {}
            enabled = info.get("aof_enabled")
            self._keeps = [_gauge("redis_aof_enabled", {} if enabled is None else {(): enabled})]
            self._keeps_at = self._monotonic()
        return self._keeps

    def _depth(self, fields: Mapping[bytes, bytes]) -> dict[tuple[str, ...], int]:
        # Zeros for every configured route; a route that has left the configuration stays visible.
        depth: dict[tuple[str, ...], int] = {
            (route, lane, state): 0 for route in self._routes for lane in LANES for state in STATES
        }
        return {**depth, **{tuple(field.decode().split("|")): int(count) for field, count in fields.items()}}

    async def _stream(self) -> list[GaugeMetricFamily]:
        jobs = await look_at_jobs(self._client, self._keys) or NO_JOBS
        known = {"stream_lag": jobs.lag, "stream_pending": jobs.pending, "jobs_lost": jobs.lost}
        return [_gauge(name, {} if value is None else {(): value}) for name, value in known.items()]

    def _backlog(self, depth: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], float]:
        backlog: dict[tuple[str, ...], float] = {}
        for route in self._routes:
            waiting = sum(depth[route, lane, state] for lane in LANES for state in WAITING_STATES)
            pace_s = self._pace_s(self._equals.get(route) or [route])
            if waiting <= 0:
                backlog[route,] = 0.0
            elif pace_s is not None:
                backlog[route,] = waiting * pace_s
        return backlog

    def _silent(self, states: Sequence[QuotaState]) -> dict[tuple[str, ...], float]:
        silent_s = {state.quota: max(state.cooldown_s, _pause_s(state)) for state in states}

        def of(route: str) -> float:
            return max((silent_s[quota.name] for quota in self._routes[route]), default=0.0)

        return {(route,): min(map(of, self._equals.get(route) or [route])) for route in self._routes}

    def _pace_s(self, accounts: Iterable[str]) -> float | None:
        """Seconds for an item where these routes work side by side; None if one's pace is unknown."""
        call_s = self._metrics.call_s
        paces = [pace_s_per_item(self._routes[each], call_s.get(each)) for each in accounts]
        known = [pace for pace in paces if pace is not None]
        if len(known) < len(paces):
            return None
        return 0.0 if 0.0 in known else 1 / sum(1 / pace for pace in known)


async def oldest_waits(client: Redis, keys: Keys, routes: Iterable[str]) -> dict[str, float]:
    """The age in seconds of the item that waits longest on each route; 0: none waits."""
    names = list(routes)
    pipe = client.pipeline(transaction=False)
    pipe.time()
    for name in names:
        pipe.zrange(keys.waiting(name), 0, 0, withscores=True)
    (seconds, micros), *firsts = await pipe.execute()
    now_us = int(seconds) * 1_000_000 + int(micros)
    since_us = {name: first[0][1] for name, first in zip(names, firsts, strict=True) if first}
    return {name: max(0.0, now_us - since_us.get(name, now_us)) / 1e6 for name in names}


def pace_s_per_item(quotas: Sequence[Quota], call_s: float | None) -> float | None:
    """Seconds that the tightest of `quotas` needs for one image after another, in the long run.

    For a limit on calls in flight, `call_s` is the length of a call. While it is unknown, the rates alone decide.
    Returns None if there are no rates either, and 0.0 without quotas.
    """
    paces = [_pace_s(quota, call_s or 0.0) for quota in quotas]
    pace_s = max(paces, default=0.0)
    return None if paces and pace_s == 0.0 else pace_s


def _pace_s(quota: Quota, call_s: float) -> float:
    # Polls have a limit of their own and are not part of the cost of an image.
    limits = Quota(quota.name, tuple(limit for limit in quota.limits if limit.unit != "polls"))
    return (limits.optimum_s(_MANY + 1, call_s) - limits.optimum_s(1, call_s)) / _MANY


def _quota_gauges(states: Sequence[QuotaState], polls: Sequence[QuotaState]) -> list[GaugeMetricFamily]:
    units = [((state.quota, unit.unit), unit) for state in states for unit in state.units]
    return [
        _gauge("quota_capacity", {key: unit.capacity for key, unit in units}),
        _gauge("quota_available", {key: unit.available for key, unit in units}),
        _gauge("quota_in_flight", {(state.quota,): state.in_flight for state in states}),
        _gauge("quota_cooldown_seconds", {(state.quota,): state.cooldown_s for state in (*states, *polls)}),
        _gauge("quota_pause_seconds", {(state.quota,): _pause_s(state) for state in states}),
        _gauge("quota_rate_scale", {(state.quota,): state.scale for state in states}),
    ]


def _pause_s(state: QuotaState) -> float:
    if state.paused_reason is None:
        return 0.0
    return float("inf") if state.pause_s is None else state.pause_s


def _gauge(name: str, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    help_, *labels = _HELP_AND_LABELS[name]
    family = GaugeMetricFamily(f"pixmill_{name}", help_, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
