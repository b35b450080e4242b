"""Waits for Redis are random and grow up to a bound, and only errors that pass are waited out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from structlog.testing import capture_logs

from daemon.broker.loops import run_forever, until_answered
from pixmill.broker.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, pause_s


@given(failures=st.integers(0, 10_000), longest_s=st.floats(0.1, 60))
def test_a_pause_lies_in_the_upper_half_of_a_bound_that_doubles(failures: int, longest_s: float) -> None:
    bound = min(longest_s, FIRST_PAUSE_S * 2 ** min(failures, 20))
    assert bound / 2 <= pause_s(failures, longest_s) <= bound


def test_pauses_of_many_replicas_spread_over_half_of_the_bound() -> None:
    drawn = sorted(pause_s(100) for _ in range(2000))
    half = LONGEST_PAUSE_S / 2
    quarters = [sum(half + half * k / 4 <= s < half + half * (k + 1) / 4 for s in drawn) for k in range(4)]
    # 500 each; five standard deviations are 97.
    assert all(400 <= count <= 600 for count in quarters), quarters


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The sleeps of a loop, recorded without sleeping."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("daemon.broker.loops.asyncio.sleep", sleep)
    return slept


@pytest.mark.parametrize(
    "error", [RedisConnectionError("gone"), OutOfMemoryError("OOM"), ResponseError("NOREPLICAS")]
)
async def test_a_call_with_an_error_that_passes_is_repeated_until_it_works(
    pauses: list[float], error: Exception
) -> None:
    answers: list[Exception | str] = [error, error, "done"]

    async def call() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await until_answered("settle", call) == "done"
    assert len(pauses) == 2


async def test_an_error_that_does_not_pass_is_raised_at_once(pauses: list[float]) -> None:
    async def call() -> str:
        raise ResponseError("ERR user_script:12: attempt to index a nil value")

    with pytest.raises(ResponseError):
        await until_answered("settle", call)
    assert pauses == []


async def test_the_pause_of_a_part_that_keeps_leases_stays_below_them(pauses: list[float]) -> None:
    left = 30

    async def step() -> None:
        nonlocal left
        left -= 1
        if left:
            raise RedisConnectionError("gone")

    await run_forever("heartbeat", step, until=lambda: left == 0, longest_pause_s=0.3)
    assert len(pauses) == 29
    assert max(pauses) <= 0.3


async def test_an_outage_that_all_parts_meet_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.broker.loops.pause_s", lambda *_: 0.0)

    def part(failures: int) -> Callable[[], Awaitable[None]]:
        left = [failures]

        async def step() -> None:
            if left[0] > 0:
                left[0] -= 1
                raise RedisConnectionError("gone")
            raise asyncio.CancelledError

        return step

    loops = [run_forever(f"part {k}", part(3)) for k in range(5)]
    with capture_logs() as logs:
        await asyncio.gather(*loops, return_exceptions=True)
    assert [line["event"] for line in logs] == ["redis does not serve us; waiting"]
    with capture_logs() as again:
        await asyncio.gather(run_forever("part 0", part(1)), return_exceptions=True)
    assert [line["event"] for line in again] == ["redis does not serve us; waiting"]


async def test_a_part_that_ends_says_nothing_about_another_of_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("daemon.broker.loops.pause_s", lambda *_: 0.0)
    may_end = asyncio.Event()

    async def gone() -> None:
        if may_end.is_set():
            raise asyncio.CancelledError
        raise RedisConnectionError("gone")

    async def ends() -> None:
        raise asyncio.CancelledError

    with capture_logs() as logs:
        waiting = asyncio.create_task(run_forever("due", gone))
        while not logs:
            await asyncio.sleep(0)
        await asyncio.gather(run_forever("due", ends), return_exceptions=True)
        other = asyncio.create_task(run_forever("bell", gone))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        may_end.set()
        await asyncio.gather(waiting, other, return_exceptions=True)
    assert [line["event"] for line in logs] == ["redis does not serve us; waiting"]
