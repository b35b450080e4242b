"""What providers say of their accounts, told to the limiter and to operators: refusals, stops, headers, new rates.

A job is not concerned by any of it: it waits for the account, like all the others of the fleet.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis

from daemon.accounts.routes import Route
from daemon.broker.loops import until_answered
from daemon.queue.keys import Keys
from daemon.telemetry.metrics import Metrics
from limiter import InFlight, Limiter, Permit, Scale, read_headers
from limiter.scripts.refusals import Refusal
from providers.errors import ErrorKind, ProviderError

log = structlog.get_logger(__name__)

EVENTS_KEPT = 100_000
# What the other refusals are about: the rate of calls.
_REFUSALS: dict[ErrorKind, Refusal] = {
    ErrorKind.CONCURRENCY_LIMITED: "concurrency",
    ErrorKind.BUDGET_IN_FLIGHT: "concurrency",
    ErrorKind.OVERLOADED: "overload",
}


class Accounts:
    """One a replica."""

    def __init__(self, client: Redis, keys: Keys, limiter: Limiter, metrics: Metrics) -> None:
        self._client = client
        self._keys = keys
        self._limiter = limiter
        self._metrics = metrics

    async def refused(self, error: ProviderError, route: Route, permit: Permit | None) -> None:
        """The provider turned the permit's call away; every quota of the route waits as long as it asks.

        Of a refusal for calls in flight only those are told that limit them, if any does.
        """
        kind = _REFUSALS.get(error.kind, "rate")
        limiting = [quota for quota in route.quotas if quota.limit(InFlight)] if kind == "concurrency" else []
        for quota in limiting or route.quotas:
            if error.http_status == 429 or error.kind is ErrorKind.RATE_LIMITED:
                self._metrics.provider_429.labels(provider=route.provider.name, quota=quota.name).inc()
            penalise = partial(
                self._limiter.penalise,
                quota,
                kind=kind,
                retry_after_s=error.retry_after_s,
                reason=error.kind.value,
                permit=permit,
            )
            penalty = await until_answered("penalise", penalise)
            if penalty.cut:
                self._metrics.limiter_cooldowns.labels(quota=quota.name).inc()
                more = {"seconds": round(penalty.pause_s, 3)}
                await self._tell("quota.cooldown", quota.name, _told_of(error) | more)
            if penalty.scale is not None:
                await self.rescaled([penalty.scale])

    async def stopped(self, error: ProviderError, route: Route, permit: Permit | None = None) -> None:
        """The account can serve nobody: paused until its allowance is filled again, or an operator resumes it."""
        for quota in route.quotas:
            if error.kind is ErrorKind.QUOTA_EXHAUSTED:
                stop = partial(
                    self._limiter.exhausted,
                    quota,
                    reason=error.message,
                    retry_after_s=error.retry_after_s,
                    permit=permit,
                )
                until_us = await until_answered("pause", stop)
                log.error("allowance used up; quota paused", quota=quota.name, reason=error.message)
                more: dict[str, object] = {"until_us": until_us}
            else:
                await until_answered("pause", partial(self._limiter.pause, quota.name, error.message))
                log.error("quota paused until an operator resumes it", quota=quota.name, reason=error.message)
                more = {}
            await self._tell("quota.paused", quota.name, _told_of(error) | more)

    async def rescaled(self, scales: Iterable[Scale]) -> None:
        """Learned rates have changed."""
        for scale in scales:
            log.info("learned another rate", quota=scale.quota, before=scale.before, now=scale.now)
            await self._tell("quota.adapted", scale.quota, {"before": scale.before, "scale": scale.now})

    async def heard(self, headers: Mapping[str, str], route: Route, permit: Permit | None) -> None:
        """The headers of an answer; quotas that learn believe them where they tighten."""
        learning = [quota for quota in route.quotas if quota.adaptive]
        if permit is None or not learning:
            return
        readings = read_headers(headers, now_s=time.time())
        for quota in learning if readings else ():
            await self._limiter.observe(quota, permit, readings)

    async def _tell(self, kind: str, quota: str, more: Mapping[str, object]) -> None:
        fields: Any = {"type": kind, "data": orjson.dumps({"quota": quota, **more})}
        await until_answered(
            "event",
            lambda: self._client.xadd(self._keys.events, fields, maxlen=EVENTS_KEPT, approximate=True),
        )


def _told_of(error: ProviderError) -> dict[str, object]:
    return {"kind": error.kind.value, "message": error.message}
