"""Retries: what is counted as what, and how long a failure waits, as a distribution."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from daemon.accounts.routes import Route
from daemon.queue.outcomes import Released, Retry, Throttled, Unknown
from daemon.worker.retry_policy import (
    RETRY_FIRST_S,
    RETRY_LONGEST_S,
    THROTTLE_FIRST_S,
    THROTTLE_LONGEST_S,
    Judge,
    backoff_s,
)
from daemon.worker.run import Run
from providers.errors import ErrorKind, ProviderError
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
def test_a_wait_is_drawn_evenly_between_nothing_and_a_bound_that_doubles(
    attempt: int, first_s: float, longest_s: float
) -> None:
    draw = random.Random(attempt).random
    bound_s = min(longest_s, first_s * 2**attempt)
    waits = sorted(backoff_s(attempt, first_s, longest_s, draw) / bound_s for _ in range(DRAWS))
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
    def draw() -> float:
        return drawn

    wait_s = backoff_s(attempt, first_s, longest_s, draw)
    assert 0 <= wait_s <= longest_s
    assert wait_s <= backoff_s(attempt + 1, first_s, longest_s, draw), "the bound never shrinks"


def at(drawn: float) -> Callable[[], float]:
    return lambda: drawn


@pytest.mark.parametrize(("attempts", "longest_s"), [(0, 2), (1, 4), (2, 8), (7, 256), (8, 300), (19, 300)])
async def test_a_failure_waits_by_its_own_attempts_whatever_its_throttles_and_deliveries(
    redis: Redis, attempts: int, longest_s: float
) -> None:
    run = await run_of(redis, attempts=attempts, throttles=9, deliveries=30)
    outcome = await judged(ProviderError(ErrorKind.NETWORK_UNSENT, "It failed."), run, at(0.5))
    assert isinstance(outcome, Retry)
    assert outcome.delay_s == longest_s / 2


async def test_a_provider_that_says_when_is_not_asked_sooner_nor_sooner_than_the_backoff(
    redis: Redis,
) -> None:
    run = await run_of(redis, attempts=3)
    error = ProviderError(ErrorKind.NETWORK_UNSENT, "It failed.", retry_after_s=10.0)
    sooner, later = await judged(error, run, at(0.1)), await judged(error, run, at(0.9))
    assert isinstance(sooner, Retry)
    assert isinstance(later, Retry)
    assert (sooner.delay_s, later.delay_s) == (10.0, 16 * 0.9)


async def run_of(redis: Redis, **counts: Any) -> Run:
    installation = Installation(redis)
    await installation.submit({"id": "a", "prompt": "x", "max_attempts": 20})
    (item,) = await installation.claim()
    return Run(replace(item, **counts), Route("default", installation.provider, "model-1"), None)


async def judged(error: ProviderError, run: Run, draw: Callable[[], float]) -> Any:
    accounts: Any = Mock()
    return await Judge(accounts, Mock(), draw=draw).outcome(error, run)
