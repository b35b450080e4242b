"""Absurd durations, and clocks that are moved while a task runs: each is left out with a reason, and nothing hangs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from daemon.queue.outcomes import Failed, Succeeded
from daemon.worker.polls.rhythm import FEWEST, LONGEST_WAIT_S, Seen
from providers.base import Pending, Submitted
from tests.daemon.worker.polls.test_durations import Fleet, is_as_if_unknown, job, rule_of
from tests.daemon.worker.test_executor import Bench, generated, with_old_task

ABSURD = [
    "-5 -1",
    "-1 4",
    "7 6",
    "0 0",
    "0 1e9",
    "0 1e400",
    "1 nan",
    "inf inf",
    "9" * 400 + " 1",
    "",
    "\xff 1",
]


@pytest.fixture
def fleet(redis: Redis) -> Fleet:
    return Fleet(redis)


@pytest.fixture
def bench(redis: Redis) -> Bench:
    return Bench(redis)


@pytest.mark.parametrize("row", ABSURD)
async def test_absurd_durations_in_redis_are_left_out_and_logged_once(
    fleet: Fleet, redis: Redis, row: str
) -> None:
    key = fleet.keys.durations("default", "model-1", "default")
    await redis.lpush(key, *[row] * FEWEST)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert is_as_if_unknown(await rule_of(fleet.other, fleet.route, job()))
    assert [(line["log_level"], line["rows"]) for line in logs] == [("warning", FEWEST)]


async def test_sound_durations_beside_absurd_ones_are_learned(fleet: Fleet, redis: Redis) -> None:
    await fleet.learn(*[Seen(9.9, 10.1)] * FEWEST)
    await redis.lpush(fleet.keys.durations("default", "model-1", "default"), *ABSURD)
    rule = await rule_of(fleet.other, fleet.route, job())
    assert rule.next_s(0) == pytest.approx(10, rel=0.1)


async def test_something_else_under_the_key_is_as_if_nothing_were_known(fleet: Fleet, redis: Redis) -> None:
    await redis.set(fleet.keys.durations("default", "model-1", "default"), "a string")
    with structlog.testing.capture_logs() as logs:
        assert is_as_if_unknown(await rule_of(fleet.other, fleet.route, job()))
        await fleet.learn(Seen(9.9, 10.1))
    assert [line["log_level"] for line in logs] == ["warning", "warning"]


async def step_while_it_runs(bench: Bench, step_s: float) -> Any:
    """The outcome of a task while the clock is moved after its second poll."""
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [*[Pending("RUNNING")] * 3, generated()]

    async def stepping(_seconds: float) -> None:
        if len(bench.slept) == 2:
            bench.now += step_s

    bench.sleep = stepping
    outcome = await bench.outcome()
    assert all(wait_s <= LONGEST_WAIT_S for wait_s in bench.slept)
    return outcome


async def test_a_clock_that_is_set_back_while_a_task_runs_teaches_nothing(bench: Bench, redis: Redis) -> None:
    with structlog.testing.capture_logs() as logs:
        assert isinstance(await step_while_it_runs(bench, -1e4), Succeeded)
    assert await redis.keys("pixmill:durations:*") == []
    assert "a task's duration is absurd, so it is not learned" in [line["event"] for line in logs]


async def test_a_clock_that_leaps_ahead_ends_the_run_and_keeps_its_task(bench: Bench, redis: Redis) -> None:
    outcome = await step_while_it_runs(bench, 1e9)
    assert isinstance(outcome, Failed)
    assert outcome.error["resumable"] is True
    assert await redis.keys("pixmill:durations:*") == []


@pytest.mark.parametrize("age", [timedelta(days=-365 * 7000), timedelta(days=365 * 50)])
async def test_a_receipt_of_another_age_than_its_task_is_polled_soon(bench: Bench, age: timedelta) -> None:
    run = await with_old_task(bench, age)
    bench.provider.poll_answers = [*[Pending("RUNNING")] * 3, generated()]
    assert isinstance(await bench.executor.run(run), Succeeded)
    assert all(wait_s <= 10 for wait_s in bench.slept)


@pytest.mark.parametrize("named_s", [1e9, float("inf"), float("nan"), -5.0, 0.0])
async def test_a_poll_that_names_an_absurd_wait_is_repeated_within_a_minute(
    bench: Bench, named_s: float
) -> None:
    bench.route.timeout_s = 3600
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [Pending("RUNNING", retry_after_s=named_s), generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert all(0 < wait_s <= LONGEST_WAIT_S for wait_s in bench.slept)
