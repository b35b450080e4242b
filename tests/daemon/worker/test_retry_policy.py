"""The effect of a failure on the job and its account, its count, and the distribution of its waits."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from daemon.accounts.feedback import AccountAction
from daemon.accounts.routes import Route
from daemon.queue.outcomes import Failed, Released, Retry, Throttled, Unknown
from daemon.worker.retry_policy import (
    RETRY_FIRST_S,
    RETRY_LONGEST_S,
    THROTTLE_FIRST_S,
    THROTTLE_LONGEST_S,
    RetryPolicy,
    Then,
    after_download,
    after_poll,
)
from daemon.worker.run import Run
from limiter import InFlight, Quota
from pixmill.broker.backoff import full_jitter_s
from providers import errors
from providers.errors import ErrorKind, ProviderError, Scope
from tests.daemon.harness import Installation

ERROR = {"kind": "provider_fault", "message": "The provider failed.", "charged": "no", "retryable": True}
DRAWS = 4000
POLICIES = [(RETRY_FIRST_S, RETRY_LONGEST_S), (THROTTLE_FIRST_S, THROTTLE_LONGEST_S)]


async def test_attempts_deliveries_and_throttles_are_counted_apart(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "a", "prompt": "x", "max_attempts": 3})
    counted = []
    for outcome in (Throttled(ERROR, 0), Retry(ERROR, 0), Unknown(ERROR), Released(), Retry(ERROR, 0)):
        (item,) = await installation.claim()
        counted.append((item.attempts, item.deliveries, item.throttles))
        page = await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0")
        await installation.queue.settle(page.items[0], outcome)
    assert counted == [(0, 1, 0), (0, 3, 1), (1, 5, 1), (1, 7, 1), (1, 9, 1)]
    record = await installation.record("default//a")
    assert (record["attempts"], record["deliveries"], record["throttles"]) == ("2", "10", "1")


@pytest.mark.parametrize("attempt", range(12))
@pytest.mark.parametrize(("first_s", "longest_s"), POLICIES)
def test_a_wait_is_drawn_evenly_from_nothing_to_a_bound_that_doubles(
    attempt: int, first_s: float, longest_s: float
) -> None:
    random.seed(attempt)
    bound_s = min(longest_s, first_s * 2**attempt)
    waits = sorted(full_jitter_s(attempt, first_s, longest_s) / bound_s for _ in range(DRAWS))
    assert waits[0] >= 0
    assert waits[-1] <= 1
    # The mean of an even distribution, within four of its standard errors.
    assert abs(sum(waits) / DRAWS - 0.5) < 4 * (1 / 12 / DRAWS) ** 0.5
    # And nowhere further from it than chance allows (Kolmogorov-Smirnov, one in ten thousand).
    distance = max(max((rank + 1) / DRAWS - wait, wait - rank / DRAWS) for rank, wait in enumerate(waits))
    assert distance < 2.23 / DRAWS**0.5


@given(
    attempt=st.integers(0, 10_000),
    first_s=st.floats(0.01, 60),
    longest_s=st.floats(60, 3600),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_no_wait_is_longer_than_its_bound_and_none_overflows(
    attempt: int, first_s: float, longest_s: float, drawn: float
) -> None:
    with drawing(drawn):
        wait_s = full_jitter_s(attempt, first_s, longest_s)
        assert 0 <= wait_s <= longest_s
        assert wait_s <= full_jitter_s(attempt + 1, first_s, longest_s), "the bound never shrinks"


@pytest.mark.parametrize(("attempts", "longest_s"), [(0, 2), (1, 4), (2, 8), (7, 256), (8, 300), (19, 300)])
async def test_a_failure_waits_by_its_own_attempts_alone(
    redis: Redis, attempts: int, longest_s: float
) -> None:
    run = await run_of(redis, attempts=attempts, throttles=9, deliveries=30)
    with drawing(0.5):
        outcome = await outcome_of(billed_refusal(), run)
    assert isinstance(outcome, Retry)
    assert outcome.delay_s == longest_s / 2


async def test_a_retry_waits_for_the_longer_of_the_providers_wait_and_ours(redis: Redis) -> None:
    run = await run_of(redis, attempts=3)
    error = billed_refusal(retry_after_s=10.0)
    delays = []
    for drawn in (0.1, 0.9):
        with drawing(drawn):
            outcome = await outcome_of(error, run)
        assert isinstance(outcome, Retry)
        delays.append(outcome.delay_s)
    assert delays == [10.0, 16 * 0.9]


@pytest.mark.parametrize("kind", [ErrorKind.NETWORK_UNSENT, ErrorKind.INPUT_FETCH])
async def test_a_lack_of_this_machine_costs_no_attempt_and_blames_no_account(
    redis: Redis, kind: ErrorKind
) -> None:
    run, accounts = await run_of(redis, attempts=19), AsyncMock()
    error = ProviderError(kind, "It failed.")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert isinstance(await RetryPolicy(accounts, Mock()).outcome(error, run), Throttled)
    accounts.act.assert_not_awaited()


async def test_a_call_that_was_not_sent_costs_no_attempt_and_its_route_waits(redis: Redis) -> None:
    run = await run_of(redis, attempts=19, throttles=40)
    outcome = await outcome_of(ProviderError(ErrorKind.NETWORK_UNSENT, "Nobody is there."), run)
    assert isinstance(outcome, Throttled)
    assert outcome.delay_s == 0, "the route waits, so that a replica that reaches the provider can go on"
    assert (run.route.reach.failures, run.route.reach.why) == (1, "Nobody is there.")


@pytest.mark.parametrize("named_s", [None, 0.0, 0.05, 20.0])
@pytest.mark.parametrize(("throttles", "longest_s"), [(0, 1), (1, 2), (5, 32), (6, 60), (40, 60)])
async def test_without_quotas_a_throttled_job_waits_longer_each_time(
    redis: Redis, named_s: float | None, throttles: int, longest_s: float
) -> None:
    run = await run_of(redis, throttles=throttles)
    with drawing(0.5):
        outcome = await outcome_of(ProviderError(ErrorKind.OVERLOADED, "Busy.", retry_after_s=named_s), run)
    assert isinstance(outcome, Throttled)
    assert outcome.delay_s == max(named_s or 0.0, longest_s / 2)


async def test_with_a_quota_the_next_permit_carries_the_wait(redis: Redis) -> None:
    run = await run_of(redis, throttles=5)
    run.route.quotas = (Quota("main", (InFlight(4),)),)
    outcome = await outcome_of(ProviderError(ErrorKind.RATE_LIMITED, "Slow.", retry_after_s=9.0), run)
    assert isinstance(outcome, Throttled)
    assert outcome.delay_s == 0


# Each kind at a submit, with no task: its outcome, and what its account does.
SUBMITS: dict[type, dict[AccountAction, tuple[str, ...]]] = {
    Throttled: {
        AccountAction.COOL_DOWN: ("rate_limited", "concurrency_limited", "budget_in_flight", "overloaded"),
        AccountAction.STOP: ("auth", "billing_exhausted", "quota_exhausted"),
        AccountAction.NOTHING: ("network_unsent",),
    },
    Retry: {
        AccountAction.NOTHING: (
            *("provider_fault", "provider_timeout", "no_image", "input_fetch", "unknown"),
        )
    },
    Unknown: {
        AccountAction.NOTHING: (
            *("ambiguous_submit", "task_lost", "result_expired", "bad_response", "worker_shutdown"),
        )
    },
    Failed: {
        AccountAction.NOTHING: (
            *("poll_error", "result_download", "storage", "permission", "moderation_input"),
            *("moderation_output", "invalid_request", "unsupported", "cancelled", "deadline"),
        )
    },
}
CASES = [
    (ErrorKind(kind), outcome, action)
    for outcome, actions in SUBMITS.items()
    for action, kinds in actions.items()
    for kind in kinds
]


def test_every_kind_of_error_has_its_row() -> None:
    assert sorted(kind for kind, *_ in CASES) == sorted(ErrorKind)


@pytest.mark.parametrize(("kind", "expected", "action"), CASES)
async def test_an_error_means_one_thing_for_the_job_and_one_for_the_account(
    redis: Redis, kind: ErrorKind, expected: type, action: AccountAction
) -> None:
    run = await run_of(redis)
    accounts: Any = AsyncMock()
    error = ProviderError(kind, "It failed.")
    assert isinstance(await RetryPolicy(accounts, Mock()).outcome(error, run), expected)
    accounts.act.assert_awaited_once_with(action, error, run.route, None)


@pytest.mark.parametrize(("kind", "expected"), [(kind, expected) for kind, expected, _ in CASES])
def test_a_refused_poll_does_not_fail_its_task(kind: ErrorKind, expected: type) -> None:
    turned_away = expected is Throttled or kind in ("permission", "network_unsent", "ambiguous_submit")
    repeats = turned_away or kind in ("poll_error", "result_download", "storage")
    then = after_poll(ProviderError(kind, "It failed."))
    assert (then in (Then.REPEAT, Then.PAUSE)) == repeats
    assert (then is Then.PAUSE) == (kind in ("rate_limited", "concurrency_limited"))
    assert (then is Then.LOST) == (kind == "task_lost")
    accepted = after_poll(ProviderError(kind, "It failed.").of_accepted_call())
    assert (accepted is Then.REPEAT) == (repeats and not turned_away)


def test_a_refusal_of_this_machine_pauses_no_polls_of_others() -> None:
    assert after_poll(ProviderError(ErrorKind.RATE_LIMITED, "No.", scope=Scope.MACHINE)) is Then.REPEAT


@pytest.mark.parametrize("kind", ErrorKind)
def test_a_download_is_repeated_only_while_its_picture_may_come(kind: ErrorKind) -> None:
    error = ProviderError(kind, "It failed.")
    then = after_download(error)
    retry = errors.Retry
    may_come = (retry.POLL_AGAIN, retry.AFTER_THROTTLE, retry.PAUSE_QUOTA, retry.UNSENT, retry.BACKOFF)
    assert (then is Then.REPEAT) == (error.retry in may_come)
    assert (then is Then.REFRESH) == (kind == "result_expired")


@contextmanager
def drawing(share: float) -> Iterator[None]:
    """Inside this context, each draw is this share (0..1) of the way from low to high."""
    with patch("random.uniform", lambda low, high: low + (high - low) * share):
        yield


def billed_refusal(**more: Any) -> ProviderError:
    """A failure that costs an attempt each time, without a cap of its own."""
    return ProviderError(ErrorKind.OVERLOADED, "It failed.", **more).of_accepted_call()


async def run_of(redis: Redis, **counts: Any) -> Run:
    installation = Installation(redis)
    await installation.submit({"id": "a", "prompt": "x", "max_attempts": 20})
    (item,) = await installation.claim()
    return Run(replace(item, **counts), Route("default", installation.provider, "model-1"), None)


async def outcome_of(error: ProviderError, run: Run) -> Any:
    accounts: Any = AsyncMock()
    return await RetryPolicy(accounts, Mock()).outcome(error, run)
