"""What a failed provider call means for the job and for the account: from the taxonomy to an outcome.

Throttled is not failed: what the account must wait out costs the job nothing, and pauses every replica at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis

from daemon.keys import Keys
from daemon.loops import until_answered
from daemon.metrics import Metrics
from daemon.outcomes import Failed, Outcome, Throttled, Unknown
from daemon.outcomes import Retry as RetryOutcome
from daemon.queue import Claimed
from daemon.routes import Route
from limiter.limiter import Limiter
from providers.errors import ErrorKind, ProviderError, Retry

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 2.0
RETRY_LONGEST_S = 300.0
THROTTLE_FIRST_S = 1.0
THROTTLE_LONGEST_S = 60.0
# Where nobody said when: the account is asked again this long after it could serve nobody.
NO_QUOTA_PAUSE_S = 60.0


def backoff_s(
    attempt: int, first_s: float, longest_s: float, draw: Callable[[], float] = random.random
) -> float:
    """Full jitter: uniform between 0 and the exponential bound of attempt 0, 1, 2, ... (so retries spread out).

    AWS Architecture Blog, "Exponential Backoff And Jitter" (2015), measures why full jitter loads a server least.
    """
    return draw() * float(min(longest_s, first_s * 2 ** min(attempt, 30)))


class Judge:
    """Turns a ProviderError into the job's outcome, and tells the limiter what concerns the account."""

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        limiter: Limiter,
        metrics: Metrics,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._keys = keys
        self._limiter = limiter
        self._metrics = metrics
        self._draw = draw

    async def outcome(
        self, error: ProviderError, item: Claimed, route: Route, *, resumable: bool = False
    ) -> Outcome:
        """`resumable`: the provider's task is still good, so a retry of the failed item polls it."""
        self._metrics.job_errors.labels(route=route.name, kind=error.kind.value).inc()
        record = {**error.to_dict(), **({"resumable": True} if resumable else {})}
        match error.retry:
            case Retry.AFTER_THROTTLE:
                return Throttled(record, await self._cool_down(error, item, route))
            case Retry.PAUSE_QUOTA:
                return Throttled(record, await self._pause(error, route))
            case Retry.UNKNOWN_OUTCOME:
                return Unknown(record)
            case Retry.BACKOFF if error.max_retries is None or item.attempts < error.max_retries:
                wait_s = backoff_s(item.attempts, RETRY_FIRST_S, RETRY_LONGEST_S, self._draw)
                return RetryOutcome(record, max(error.retry_after_s or 0.0, wait_s))
            case _:
                # Never, or as often as this kind deserves; a picture that cannot be fetched ends here too.
                return Failed(record)

    async def _cool_down(self, error: ProviderError, item: Claimed, route: Route) -> float:
        """Pause the route's quotas for all replicas; returns how long the job itself has to stand back."""
        wait_s = error.retry_after_s
        if wait_s is None:
            wait_s = backoff_s(item.throttles, THROTTLE_FIRST_S, THROTTLE_LONGEST_S, self._draw)
        for quota in route.quotas:
            if error.http_status == 429 or error.kind is ErrorKind.RATE_LIMITED:
                self._metrics.provider_429.labels(provider=route.provider.name, quota=quota.name).inc()
            self._metrics.limiter_cooldowns.labels(quota=quota.name).inc()
            await until_answered(
                "penalise",
                partial(self._limiter.penalise, quota.name, retry_after_s=wait_s, reason=error.kind.value),
            )
            await self._tell("quota.cooldown", quota.name, error, {"seconds": round(wait_s, 3)})
        # With a quota the next permit carries the wait; the job keeps its place at the front of its queue.
        return 0.0 if route.quotas else wait_s

    async def _pause(self, error: ProviderError, route: Route) -> float:
        """Stop the route's quotas: until a person resumes them, or until an allowance comes back by itself."""
        reset_s = error.retry_after_s if error.kind is ErrorKind.QUOTA_EXHAUSTED else None
        until_us = None if reset_s is None else await self._server_us() + round(reset_s * 1e6)
        for quota in route.quotas:
            await until_answered("pause", partial(self._limiter.pause, quota.name, error.message, until_us))
            told = {} if reset_s is None else {"seconds": round(reset_s, 3)}
            await self._tell("quota.paused", quota.name, error, told)
            log.error(
                "quota paused", quota=quota.name, reason=error.message, for_s=reset_s or "until resumed"
            )
        return 0.0 if route.quotas else max(reset_s or 0.0, NO_QUOTA_PAUSE_S)

    async def _server_us(self) -> int:
        seconds, micros = await until_answered("time", self._client.time)
        return int(seconds) * 1_000_000 + int(micros)

    async def _tell(self, kind: str, quota: str, error: ProviderError, more: Mapping[str, object]) -> None:
        data = orjson.dumps({"quota": quota, "kind": error.kind.value, "message": error.message, **more})
        fields: Any = {"type": kind, "data": data}
        await until_answered(
            "event", lambda: self._client.xadd(self._keys.events, fields, maxlen=100_000, approximate=True)
        )
