"""Decides what a provider's failure means for the job and its account: look here first for a 429.

Each error names what may follow (`error.retry`, see providers/errors.py); the table below chooses what does follow.
A throttle is not a failure: the job loses nothing, and the account waits on every replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import structlog

from daemon.accounts.feedback import AccountAction, AccountFeedback
from daemon.accounts.routes import UnknownAccountError
from daemon.queue.outcomes import Failed, Held, Outcome, Throttled, Unknown
from daemon.queue.outcomes import Retry as RetryOutcome
from daemon.storage.gate import NotStored
from daemon.telemetry.metrics import Metrics
from daemon.worker.run import Run, Unfinished
from pixmill.broker.backoff import full_jitter_s
from providers.errors import ErrorKind, ProviderError, Retry, Scope
from providers.lack import lack_of

log = structlog.get_logger(__name__)


class Then(Enum):
    """The reaction to an error. All but the last four end the run."""

    FAIL = "the job fails"
    ATTEMPT = "the job loses an attempt, waits with full jitter, and is sent again; without attempts it fails"
    WAIT = "the job loses nothing, goes back to its queue and waits for the account, or for the way to it"
    UNKNOWN = "the call may be paid for: `on_unknown_outcome` of the job decides"
    RESUME = "as ATTEMPT, but the next run polls the task; without a task the job fails"
    REPEAT = "the task or picture may still be good: the same request is sent again, within the run"
    PAUSE = "as REPEAT, and the polls of the account pause on every replica; new calls go on"
    LOST = "as REPEAT, but the third time in a row ends the run: the task is lost"
    REFRESH = (
        "as REPEAT while the address may still be good; then the task is polled once for another address"
    )


class Row(NamedTuple):
    """The reaction at each step, and the action of the account once the run ends with the error."""

    submit: Then
    poll: Then
    download: Then
    account: AccountAction


# fmt: off
TABLE: Mapping[Retry, Row] = {
    # rate_limited, concurrency_limited, budget_in_flight, overloaded
    Retry.AFTER_THROTTLE:  Row(Then.WAIT,    Then.REPEAT,  Then.REPEAT,  AccountAction.COOL_DOWN),
    # auth, billing_exhausted, quota_exhausted
    Retry.PAUSE_QUOTA:     Row(Then.WAIT,    Then.REPEAT,  Then.REPEAT,  AccountAction.STOP),
    # network_unsent; its route tries one call at a time (accounts/routes.py). input_fetch without an answer
    Retry.UNSENT:          Row(Then.WAIT,    Then.REPEAT,  Then.REPEAT,  AccountAction.NOTHING),
    # provider_fault, provider_timeout, no_image, input_fetch, unknown
    Retry.BACKOFF:         Row(Then.ATTEMPT, Then.ATTEMPT, Then.REPEAT,  AccountAction.NOTHING),
    # ambiguous_submit, task_lost, result_expired, bad_response, worker_shutdown
    Retry.UNKNOWN_OUTCOME: Row(Then.UNKNOWN, Then.UNKNOWN, Then.UNKNOWN, AccountAction.NOTHING),
    # poll_error, result_download, storage
    Retry.POLL_AGAIN:      Row(Then.RESUME,  Then.REPEAT,  Then.REPEAT,  AccountAction.NOTHING),
    # permission, moderation_input, moderation_output, invalid_request, unsupported, cancelled, deadline
    Retry.NEVER:           Row(Then.FAIL,    Then.FAIL,    Then.FAIL,    AccountAction.NOTHING),
}
# Kinds with another meaning at a poll or at a download than at a submit. Only limits on requests pause the polls of an
# account: a server in trouble may answer the next task.
AT_POLL = {
    ErrorKind.RATE_LIMITED:        Then.PAUSE,
    ErrorKind.CONCURRENCY_LIMITED: Then.PAUSE,
    ErrorKind.PERMISSION:          Then.REPEAT,
    ErrorKind.AMBIGUOUS_SUBMIT:    Then.REPEAT,
    ErrorKind.TASK_LOST:           Then.LOST,
}
AT_DOWNLOAD = {ErrorKind.RESULT_EXPIRED: Then.REFRESH}
# fmt: on

RETRY_FIRST_S, RETRY_LONGEST_S = 2.0, 300.0  # bounds of the full jitter of ATTEMPT and RESUME
# Bounds of the full jitter of WAIT, for a route without quotas; with one the next permit carries the wait.
THROTTLE_FIRST_S, THROTTLE_LONGEST_S = 1.0, 60.0
NO_QUOTA_PAUSE_S = 60.0  # the wait for a stopped account on a route without quotas
STORE_AGAIN_S = 30.0
# Waits of an item, about ten minutes of them, after which a silent host of an input costs attempts. It is no lack of
# this machine then, and each try of it keeps a worker for up to ten seconds.
FREE_WAITS = 20


def after_poll(error: ProviderError) -> Then:
    """The reaction to a failed poll. An error of the accepted task itself counts as at the submit."""
    row = TABLE[error.retry]
    if error.call_accepted and error.retry is not Retry.POLL_AGAIN and error.kind is not ErrorKind.TASK_LOST:
        return row.submit
    then = AT_POLL.get(error.kind, row.poll)
    return Then.REPEAT if then is Then.PAUSE and error.scope is Scope.MACHINE else then


def after_download(error: ProviderError) -> Then:
    """The reaction to a failed download."""
    return AT_DOWNLOAD.get(error.kind, TABLE[error.retry].download)


def blames_account(error: ProviderError) -> bool:
    """Whether the account acts on the error; it needs the call's permit then, with its place."""
    return TABLE[error.retry].account is not AccountAction.NOTHING


class RetryPolicy:
    """Turns the error that ended a run into the job's outcome, and lets the account act on it."""

    def __init__(self, accounts: AccountFeedback, metrics: Metrics) -> None:
        self._accounts = accounts
        self._metrics = metrics

    async def outcome(self, error: ProviderError, run: Run) -> Outcome:
        """Return the outcome of a run that ended with `error`, once Redis has recorded the action of the account."""
        self._metrics.job_errors.labels(route=run.route.name, kind=error.kind.value).inc()
        resumable = _is_resumable(error, run)
        record = {**error.to_dict(), **({"resumable": True} if resumable else {})}
        row = TABLE[Retry.BACKOFF if _is_silent_for_long(error, run) else error.retry]
        if _is_free(error, run) and (lack := lack_of(error)) is not None:
            log.error("this machine could not go on, and the item waits", item=run.item.uid, reason=lack)
            return Throttled(record, full_jitter_s(run.item.throttles, THROTTLE_FIRST_S, THROTTLE_LONGEST_S))
        if error.scope is Scope.MACHINE:
            log.error(_machine_problem(error), route=run.route.name, reason=error.message)
        else:
            if error.kind is ErrorKind.NETWORK_UNSENT:
                run.route.reach.failed(error.message)
            await self._accounts.act(row.account, error, run.route, run.permit)
        may_repeat = error.max_retries is None or run.item.attempts < error.max_retries
        match row.submit:
            case Then.WAIT if not error.call_accepted and run.submitted is None:
                return Throttled(record, _wait_s(error, run))
            case Then.WAIT:
                # The call was accepted: free repeats could go on, and be billed, without end.
                return _attempt(error, run, record)
            case Then.UNKNOWN:
                return Unknown(record)
            case Then.ATTEMPT if may_repeat:
                return _attempt(error, run, record)
            case Then.RESUME if may_repeat and resumable:
                return _attempt(error, run, record)
            case _:
                return Failed(record)

    def unknown_account(self, error: UnknownAccountError, run: Run) -> Outcome:
        """Return the outcome of an item whose task nobody can poll with this configuration: a person decides."""
        self._metrics.job_errors.labels(route=run.route.name, kind=ErrorKind.POLL_ERROR.value).inc()
        return Held({**ProviderError(ErrorKind.POLL_ERROR, str(error)).to_dict(), "resumable": True})

    def not_stored(self, error: NotStored, run: Run) -> Outcome:
        """Return the outcome of a paid picture that our own store does not accept.

        With a task, the picture can be downloaded again. Without one it would have to be bought again, so a person
        decides.
        """
        self._metrics.job_errors.labels(route=run.route.name, kind=ErrorKind.STORAGE.value).inc()
        if run.submitted is None:
            gone = "the provider cannot give it again. It was paid for; a retry buys it a second time."
            return Held(ProviderError(ErrorKind.STORAGE, f"{error}, and {gone}").to_dict())
        kept = "its task is polled again, and nothing is paid twice."
        record = ProviderError(ErrorKind.STORAGE, f"{error}; {kept}").to_dict()
        return Throttled({**record, "resumable": True}, STORE_AGAIN_S)


def _attempt(error: ProviderError, run: Run, record: Mapping[str, Any]) -> RetryOutcome:
    wait_s = full_jitter_s(run.item.attempts, RETRY_FIRST_S, RETRY_LONGEST_S)
    return RetryOutcome(record, max(error.retry_after_s or 0.0, wait_s))


def _wait_s(error: ProviderError, run: Run) -> float:
    named_s = 0.0
    if error.scope is not Scope.MACHINE and error.kind is not ErrorKind.INPUT_FETCH:
        if run.route.quotas or error.retry is Retry.UNSENT:
            return 0.0
        if error.retry is Retry.PAUSE_QUOTA:
            return NO_QUOTA_PAUSE_S
        named_s = error.retry_after_s or 0.0
    return max(named_s, full_jitter_s(run.item.throttles, THROTTLE_FIRST_S, THROTTLE_LONGEST_S))


def _is_free(error: ProviderError, run: Run) -> bool:
    """Whether the item can simply wait: nothing was sent, or its task goes on and only its last poll failed."""
    if run.submitted is None:
        return error.kind is ErrorKind.NETWORK_UNSENT or not run.sent
    return isinstance(error, Unfinished) and error.kind is not ErrorKind.DEADLINE


def _machine_problem(error: ProviderError) -> str:
    if error.kind is ErrorKind.INPUT_FETCH:
        return "this machine cannot reach the host of an input"
    return "the provider refuses this machine"


def _is_silent_for_long(error: ProviderError, run: Run) -> bool:
    """Whether an item has waited for the host of an input as long as it may without a loss."""
    silent = error.kind is ErrorKind.INPUT_FETCH and error.retry is Retry.UNSENT
    return silent and error.scope is not Scope.MACHINE and run.item.throttles >= FREE_WAITS


def _is_resumable(error: ProviderError, run: Run) -> bool:
    """Whether the task is still good although the item failed: a retry then polls it and buys nothing."""
    return run.submitted is not None and (
        isinstance(error, Unfinished) or error.kind is ErrorKind.RESULT_DOWNLOAD
    )
