"""Passes the refusals, stops and rates of providers on to the limiter and to operators.

They concern the account and no single job: every job of the fleet waits for its account.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis

from daemon.accounts.routes import Route
from daemon.broker.loops import until_answered
from daemon.telemetry.metrics import Metrics
from limiter import InFlight, Limiter, Permit, Quota, Scale, read_headers
from limiter.scripts.refusals import Refusal
from pixmill.records.keys import Keys
from providers.errors import ErrorKind, ProviderError

log = structlog.get_logger(__name__)

EVENTS_KEPT = 100_000
UNREACHABLE_KEPT_S = 120  # longer than the longest pause between two tries, and a try
# The other refusals are about the rate of calls.
_REFUSALS: dict[ErrorKind, Refusal] = {
    ErrorKind.CONCURRENCY_LIMITED: "concurrency",
    ErrorKind.BUDGET_IN_FLIGHT: "concurrency",
    ErrorKind.OVERLOADED: "overload",
}


class AccountAction(Enum):
    """The effect of one call's error on every call of the account (see worker/retry_policy.py)."""

    NOTHING = "nothing"
    COOL_DOWN = "its quotas pause for as long as the provider wants, and learned rates shrink"
    STOP = (
        "it serves no call: its quotas pause until the allowance is filled again, or an operator resumes them"
    )


class AccountFeedback:
    """Acts for one replica. Every method repeats its steps until Redis has carried them out."""

    def __init__(self, client: Redis, keys: Keys, limiter: Limiter, metrics: Metrics) -> None:
        self._client = client
        self._keys = keys
        self._limiter = limiter
        self._metrics = metrics

    async def act(
        self, action: AccountAction, error: ProviderError, route: Route, permit: Permit | None
    ) -> None:
        """Carry out `action` on the quotas of the route, after the call of `permit` ended with `error`."""
        if action is AccountAction.COOL_DOWN:
            await self._cool_down(error, route, permit)
        elif action is AccountAction.STOP:
            await self._stop(error, route, permit)

    async def polls_refused(
        self, error: ProviderError, route: Route, permits: Mapping[str, Permit], longest_s: float
    ) -> None:
        """Pause the polls of the route's quotas, `longest_s` at most; new calls go on.

        `permits` has the permit of the refused poll for the polls of each quota. Polls of one permit pause once.
        """
        wait_s = None if error.retry_after_s is None else min(error.retry_after_s, longest_s)
        for quota in route.quotas:
            polls = quota.polls
            await self._penalise(polls, "overload", error, route, wait_s, permits.get(polls.name))

    async def report_reach(self, route: Route, *, news: bool) -> None:
        """Report whether this replica reaches the route's provider: to `explain`, and as an event if it is `news`."""
        provider, reach = route.provider.name, route.reach
        self._metrics.provider_unreachable.labels(provider=provider, route=route.name).set(reach.lost)
        key = self._keys.unreachable(route.name)
        if reach.lost:
            about = orjson.dumps({"provider": provider, "message": reach.why})
            await until_answered("reach", lambda: self._client.set(key, about, ex=UNREACHABLE_KEPT_S))
        else:
            await until_answered("reach", lambda: self._client.delete(key))
        if not news:
            return
        kind = "provider.unreachable" if reach.lost else "provider.reachable"
        log.warning(kind.replace(".", " is "), provider=provider, route=route.name, reason=reach.why)
        more = {"message": reach.why} if reach.lost else {}
        await self._emit(kind, {"provider": provider, "route": route.name, "time": _now(), **more})

    async def rescaled(self, scales: Iterable[Scale]) -> None:
        """Report that learned rates have changed."""
        for scale in scales:
            log.info("learned another rate", quota=scale.quota, before=scale.before, now=scale.now)
            await self._publish("quota.adapted", scale.quota, before=scale.before, scale=scale.now)

    async def note_headers(self, headers: Mapping[str, str], route: Route, permit: Permit | None) -> None:
        """Let quotas that learn read the headers of a reply; they follow headers that tighten them."""
        learning = [quota for quota in route.quotas if quota.adaptive]
        if permit is None or not learning:
            return
        readings = read_headers(headers, now_s=time.time())
        for quota in learning if readings else ():
            await self._limiter.observe(quota, permit, readings)

    async def _cool_down(self, error: ProviderError, route: Route, permit: Permit | None) -> None:
        kind = _REFUSALS.get(error.kind, "rate")
        # A refusal for calls in flight concerns only the quotas that limit them, if any does.
        limiting = [quota for quota in route.quotas if quota.limit(InFlight)] if kind == "concurrency" else []
        for quota in limiting or route.quotas:
            await self._penalise(quota, kind, error, route, error.retry_after_s, permit)

    async def _penalise(
        self,
        quota: Quota,
        kind: Refusal,
        error: ProviderError,
        route: Route,
        retry_after_s: float | None,
        permit: Permit | None,
    ) -> None:
        if error.http_status == 429 or error.kind is ErrorKind.RATE_LIMITED:
            self._metrics.provider_429.labels(provider=route.provider.name, quota=quota.name).inc()
        penalise = partial(
            self._limiter.penalise,
            quota,
            kind=kind,
            retry_after_s=retry_after_s,
            reason=error.kind.value,
            permit=permit,
        )
        penalty = await until_answered("penalise", penalise)
        if penalty.cut:
            self._metrics.limiter_cooldowns.labels(quota=quota.name).inc()
            pause_s = round(penalty.pause_s, 3)
            await self._publish("quota.cooldown", quota.name, error, seconds=pause_s)
        if penalty.scale is not None:
            await self.rescaled([penalty.scale])
        if penalty.cut and kind == "rate" and permit is not None:
            await self._widen(quota, permit)

    async def _widen(self, quota: Quota, permit: Permit) -> None:
        """Widen the quota's guard, if the uneven way to the provider explains the refusal."""
        factor = await until_answered("widen", lambda: self._limiter.widen(quota, permit))
        if factor:
            log.warning("calls arrive unevenly; guard widened for an hour", quota=quota.name, guard=factor)
            await self._publish("quota.adapted", quota.name, guard=factor)

    async def _stop(self, error: ProviderError, route: Route, permit: Permit | None) -> None:
        for quota in route.quotas:
            reason, wait_s, more = error.message, error.retry_after_s, {}
            if error.kind is ErrorKind.QUOTA_EXHAUSTED:
                exhausted = partial(
                    self._limiter.exhausted, quota, reason=reason, retry_after_s=wait_s, permit=permit
                )
                more = {"until_us": await until_answered("pause", exhausted)}
                log.error("allowance used up; quota paused", quota=quota.name, reason=reason)
            else:
                await until_answered("pause", partial(self._limiter.pause, quota.name, reason))
                log.error("quota paused until an operator resumes it", quota=quota.name, reason=reason)
            await self._publish("quota.paused", quota.name, error, **more)

    async def _publish(
        self, kind: str, quota: str, error: ProviderError | None = None, **more: object
    ) -> None:
        cause = {} if error is None else {"kind": error.kind.value, "message": error.message}
        await self._emit(kind, {"quota": quota, **cause, **more})

    async def _emit(self, kind: str, data: Mapping[str, object]) -> None:
        fields: Any = {"type": kind, "data": orjson.dumps(data)}
        await until_answered(
            "event",
            lambda: self._client.xadd(self._keys.events, fields, maxlen=EVENTS_KEPT, approximate=True),
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
