"""What a failed provider call means for the job and for the account: from the taxonomy to an outcome.

Throttled is not failed: what the account must wait out costs the job nothing, and pauses every replica at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from daemon.accounts.feedback import Accounts
from daemon.queue.outcomes import Failed, Held, Outcome, Throttled, Unknown
from daemon.queue.outcomes import Retry as RetryOutcome
from daemon.storage.gate import NotStored
from daemon.telemetry.metrics import Metrics
from daemon.worker.run import Run
from providers.errors import ErrorKind, ProviderError, Retry, Scope

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 2.0
RETRY_LONGEST_S = 300.0
THROTTLE_FIRST_S = 1.0
THROTTLE_LONGEST_S = 60.0
# Where nobody said when: the account is asked again this long after it could serve nobody.
NO_QUOTA_PAUSE_S = 60.0
STORE_AGAIN_S = 30.0


def backoff_s(
    attempt: int, first_s: float, longest_s: float, draw: Callable[[], float] = random.random
) -> float:
    """Full jitter: uniform between 0 and the exponential bound of attempt 0, 1, 2, ... (so retries spread out).

    AWS Architecture Blog, "Exponential Backoff And Jitter" (2015), measures why full jitter loads a server least.
    """
    return draw() * float(min(longest_s, first_s * 2 ** min(attempt, 30)))


class Judge:
    """Turns a ProviderError into the job's outcome, and tells what concerns the account."""

    def __init__(
        self, accounts: Accounts, metrics: Metrics, *, draw: Callable[[], float] = random.random
    ) -> None:
        self._accounts = accounts
        self._metrics = metrics
        self._draw = draw

    async def outcome(self, error: ProviderError, run: Run, *, resumable: bool = False) -> Outcome:
        """`resumable`: the provider's task is still good, so a retry of the failed item polls it."""
        route = run.route
        self._metrics.job_errors.labels(route=route.name, kind=error.kind.value).inc()
        record = {**error.to_dict(), **({"resumable": True} if resumable else {})}
        match error.retry:
            case Retry.AFTER_THROTTLE if error.scope is Scope.MACHINE:
                log.error("the provider refuses this machine", route=route.name, reason=error.message)
                return Throttled(record, self._throttle_s(run))
            case Retry.AFTER_THROTTLE:
                await self._accounts.refused(error, route, run.permit)
                if error.was_let_in:
                    # Repeated for free it could go on, and be billed, without end.
                    return self._again(error, run, record)
                return Throttled(record, self._stand_back_s(error, run))
            case Retry.PAUSE_QUOTA:
                await self._accounts.stopped(error, route, run.permit)
                if error.was_let_in or run.submitted is not None:
                    return self._again(error, run, record)
                return Throttled(record, 0.0 if route.quotas else NO_QUOTA_PAUSE_S)
            case Retry.UNKNOWN_OUTCOME:
                return Unknown(record)
            case Retry.BACKOFF if _may_repeat(error, run):
                return self._again(error, run, record)
            case Retry.POLL_AGAIN if resumable and _may_repeat(error, run):
                # The task is polled again then, so nothing is bought.
                return self._again(error, run, record)
            case _:
                # Never, or as often as this kind deserves.
                return Failed(record)

    def _again(self, error: ProviderError, run: Run, record: Mapping[str, Any]) -> RetryOutcome:
        wait_s = backoff_s(run.item.attempts, RETRY_FIRST_S, RETRY_LONGEST_S, self._draw)
        return RetryOutcome(record, max(error.retry_after_s or 0.0, wait_s))

    def not_stored(self, error: NotStored, run: Run) -> Outcome:
        """A picture that is paid for, and that our own store does not take: its task is good for another download.

        Without a task it cannot be had again for nothing, and that is for a person to decide.
        """
        self._metrics.job_errors.labels(route=run.route.name, kind=ErrorKind.STORAGE.value).inc()
        if run.submitted is None:
            gone = "the provider cannot give it again. It was paid for; a retry buys it a second time."
            return Held(ProviderError(ErrorKind.STORAGE, f"{error}, and {gone}").to_dict())
        kept = "its task is polled again, and nothing is paid twice."
        record = ProviderError(ErrorKind.STORAGE, f"{error}; {kept}").to_dict()
        return Throttled({**record, "resumable": True}, STORE_AGAIN_S)

    def _stand_back_s(self, error: ProviderError, run: Run) -> float:
        """With a quota the next permit carries the wait; the job keeps its place at the front of its queue."""
        if run.route.quotas:
            return 0.0
        if error.retry_after_s is not None:
            return error.retry_after_s
        return self._throttle_s(run)

    def _throttle_s(self, run: Run) -> float:
        return backoff_s(run.item.throttles, THROTTLE_FIRST_S, THROTTLE_LONGEST_S, self._draw)


def _may_repeat(error: ProviderError, run: Run) -> bool:
    return error.max_retries is None or run.item.attempts < error.max_retries
