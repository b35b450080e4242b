"""Estimates when a batch will be done, and names its bound: the pause, person, time or limit that holds it back.

The estimate follows from the quotas, the work ahead under the fair turns, and the length of a call. There is none if
the end is unknown, as in a pause without an end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import inf
from typing import NamedTuple

from redis.asyncio import Redis

from daemon.accounts.call_times import ahead_of, least_s
from daemon.telemetry.metrics import Metrics
from daemon.worker.dispatcher import Dispatcher
from limiter import Bound
from limiter.permit import PAUSED as QUOTA_PAUSED
from limiter.quota.shares import shares
from pixmill.records.counts import GroupCounts
from pixmill.records.keys import Keys

HELD = "held"  # every item that has not ended waits for a person
PARTS = "parts"  # every item that was read has ended, and parts of the batch are missing
PAUSED = "paused:batch"
NOT_BEFORE = "not_before"


class Estimate(NamedTuple):
    """`eta_s` is None while the route's pace is unknown, and if the end depends on a person."""

    eta_s: float | None
    bound: str | None


class _Batch(NamedTuple):
    """Facts from the record of a batch; `starts_s` is the time until its last item may start."""

    route: str
    paused: bool
    parts_left: int
    starts_s: float


class Estimator:
    """Knows this replica's dispatchers and how long calls take on each route."""

    def __init__(
        self, client: Redis, keys: Keys, dispatchers: Mapping[str, Dispatcher], slots: int, metrics: Metrics
    ) -> None:
        self._client = client
        self._keys = keys
        self._dispatchers = dispatchers
        self._slots = slots
        self._call_s = metrics.call_s

    async def batch(self, counts: GroupCounts) -> Estimate:
        """Estimate a batch whose items share the route of its first one, as in most batches."""
        batch = await self._batch(counts.gid)
        serving = [each for each in self._dispatchers.values() if each.line == batch.route and each.is_needed]
        if not serving:
            return Estimate(None, f"route:{batch.route} is not served here")
        left = counts.total - counts.ended - counts.held
        if left <= 0:
            return _nothing_runs(counts, batch)
        ours = left - counts.running
        if ours and batch.paused:
            return Estimate(None, PAUSED)
        waiting = await self._client.zcard(self._keys.waiting(batch.route))
        active = await self._client.zcard(self._keys.active)
        ahead = ahead_of(waiting, ours, active)
        first = [_first_slot(each) if ours else (0.0, each.bound) for each in serving]
        # Those of several accounts with a known slot make the calls, and the one that is ready first is the bound.
        known = [
            (each, first_s) for each, (first_s, _) in zip(serving, first, strict=True) if first_s is not None
        ]
        first_s, holds = min(first, key=lambda one: inf if one[0] is None else one[0])
        bound = None if holds is None else str(holds)
        split = shares(left + ahead, [each.route.quotas for each, _ in known]) if known else []
        ends = [self._least_s(each, calls) for (each, _), calls in zip(known, split, strict=True)]
        if first_s is None or None in ends:
            return Estimate(None, bound)
        eta_s = max(each for each in ends if each is not None) + first_s
        call_s = self._call_s.get(known[0][0].route.name)
        latest_s = batch.starts_s + (call_s or 0.0)
        if ours and latest_s > eta_s:
            return Estimate(round(latest_s, 1), NOT_BEFORE)
        return Estimate(round(eta_s, 1), bound)

    def _least_s(self, dispatcher: Dispatcher, calls: int) -> float | None:
        route = dispatcher.route
        return least_s(route.quotas, calls, self._call_s.get(route.name), self._slots)

    async def _batch(self, gid: str) -> _Batch:
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.hmget(self._keys.group(gid), "route", "paused", "parts_left", "latest_us")
        (seconds, micros), (route, paused, parts_left, latest_us) = await pipe.execute()
        starts_s = int(latest_us or 0) / 1e6 - (int(seconds) + int(micros) / 1e6)
        name = route.decode() if route else ""
        return _Batch(name, paused is not None, max(0, int(parts_left or 0)), max(0.0, starts_s))


def _nothing_runs(counts: GroupCounts, batch: _Batch) -> Estimate:
    if counts.held:
        return Estimate(None, HELD)
    return Estimate(None, PARTS) if batch.parts_left else Estimate(0.0, None)


def _first_slot(dispatcher: Dispatcher) -> tuple[float | None, Bound | str | None]:
    """The seconds until the route may begin a call (None: unknown), and its bound."""
    if (pause := dispatcher.pause) is not None:
        return pause.ends_s, pause.bound
    if (unreachable := dispatcher.route.unreachable) is not None:
        return None, unreachable
    bound = dispatcher.bound
    if isinstance(bound, Bound) and bound.cause == QUOTA_PAUSED:
        return None, bound
    if bound is None or dispatcher.slot_at is None:
        return 0.0, bound
    return max(0.0, dispatcher.slot_at - time.monotonic()), bound
