"""The benchmark of 100 pictures is honest: its bound holds, its account refuses, and one seed is one result."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.today import virtual
from benchmarks.today.account import RefusedError, VirtualAccount
from benchmarks.today.figures import rows
from benchmarks.today.outcome import Outcome
from benchmarks.today.strategies import STRATEGIES, Script
from benchmarks.today.terms import ACCOUNTS, Batch, Terms, least_s
from benchmarks.today.virtual_time import VirtualTimeLoop, now_s
from tests.servers import RedisServer

T = TypeVar("T")

WINDOW, HUNYUAN = ACCOUNTS
SCRIPTS = [name for name, strategy in STRATEGIES.items() if strategy.run]
OURS = [name for name in STRATEGIES if name not in SCRIPTS]


def few(terms: Terms, pictures: int = 20) -> Terms:
    """The account for a batch that takes little time to simulate, and still meets the limit."""
    return dataclasses.replace(terms, pictures=pictures, count=terms.count and 5)


def outcome(name: str, terms: Terms, server: RedisServer, *, seed: int = 0, bad_day: bool = False) -> Outcome:
    return virtual.run(name, terms, seed, server.url, bad_day=bad_day)


@pytest.mark.parametrize("bad_day", [False, True], ids=["quiet", "bad"])
@pytest.mark.parametrize("terms", ACCOUNTS, ids=lambda terms: terms.name)
@pytest.mark.parametrize("name", STRATEGIES)
def test_nobody_is_faster_than_the_bound(
    redis_server: RedisServer, name: str, terms: Terms, bad_day: bool
) -> None:
    for seed in range(3):
        one = outcome(name, few(terms), redis_server, seed=seed, bad_day=bad_day)
        if not one.lost:
            assert one.times_optimum >= 1
        assert one.paid >= one.made
        assert bad_day or (one.lost, one.paid) == (0, one.pictures)


@pytest.mark.parametrize("terms", ACCOUNTS, ids=lambda terms: terms.name)
@pytest.mark.parametrize("name", OURS)
def test_pixmill_is_never_refused_and_loses_nothing(
    redis_server: RedisServer, name: str, terms: Terms
) -> None:
    quiet = outcome(name, few(terms), redis_server)
    bad = outcome(name, few(terms), redis_server, bad_day=True)
    assert (quiet.refused, quiet.lost, bad.lost) == (0, 0, 0)
    assert terms.tasks is False or bad.paid == bad.pictures, "a task that is known is never bought again"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_list_in_memory_ends_with_its_process(redis_server: RedisServer, name: str) -> None:
    bad = outcome(name, few(WINDOW), redis_server, bad_day=True)
    share = len(STRATEGIES[name].share(0, bad.pictures))
    assert 0 < bad.lost <= share


def test_habits_without_a_limiter_are_refused(redis_server: RedisServer) -> None:
    for name in ("groups", "gather", "semaphore", "products"):
        assert outcome(name, few(WINDOW), redis_server).refused > 0


@pytest.mark.parametrize("name", ["gather", "pixmill-4"])
def test_one_seed_is_one_result_and_another_seed_another(redis_server: RedisServer, name: str) -> None:
    first = outcome(name, few(WINDOW), redis_server, seed=1, bad_day=True)
    assert first == outcome(name, few(WINDOW), redis_server, seed=1, bad_day=True)
    assert first.makespan_s != outcome(name, few(WINDOW), redis_server, seed=2, bad_day=True).makespan_s


@given(
    seconds=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    in_flight=st.integers(1, 3),
    count=st.none() | st.integers(1, 3),
)
def test_the_bound_is_below_the_best_of_all_orders(
    seconds: list[int], in_flight: int, count: int | None
) -> None:
    best_s = min(_as_soon_as_possible(order, in_flight, count) for order in itertools.permutations(seconds))
    assert 0 < least_s(seconds, in_flight, count, 10.0) <= best_s


def _as_soon_as_possible(order: tuple[int, ...], in_flight: int, count: int | None) -> float:
    """The makespan of calls that start in this order, each as soon as 10 s windows and places allow."""
    starts: list[float] = []
    ends: list[float] = []
    for seconds in order:
        at = starts[-1] if starts else 0.0
        if count is not None and len(starts) >= count:
            at = max(at, starts[-count] + 10)
        if len(ends) >= in_flight:
            at = max(at, sorted(ends)[-in_flight])
        starts.append(at)
        ends.append(at + seconds)
    return max(ends)


def test_the_bound_is_reached_where_calls_cannot_overlap() -> None:
    assert least_s([3, 1, 2], 1, None, 60) == 6
    assert least_s([1, 1, 1], 3, 1, 60) == 121
    assert least_s([5, 1], 2, None, 60) == 5


def test_the_account_goes_on_with_a_call_whose_caller_has_died() -> None:
    async def story() -> None:
        account = _account(WINDOW, [10.0] * 8)
        calls = [asyncio.create_task(account.generate(picture)) for picture in range(4)]
        await asyncio.sleep(1)
        calls[0].cancel()
        with pytest.raises(RefusedError) as busy:
            await account.generate(4)
        assert (busy.value.quota, busy.value.retry_after_s) == ("in_flight", WINDOW.busy_retry_s)
        await asyncio.sleep(10)
        await asyncio.gather(*(account.generate(picture) for picture in range(4, 8)))
        assert (account.paid, account.refused) == (8, 1)

    _run(story())


def test_the_account_refuses_beyond_its_window_and_names_the_wait() -> None:
    async def story() -> None:
        account = _account(dataclasses.replace(WINDOW, count=2, way_s=0), [1.0] * 3)
        await account.generate(0)
        await account.generate(1)
        with pytest.raises(RefusedError) as late:
            await account.generate(2)
        assert (late.value.quota, late.value.retry_after_s) == ("images", 58.0)

    _run(story())


def test_a_lost_reply_is_paid_and_comes_the_second_time() -> None:
    async def story() -> None:
        account = _account(WINDOW, [1.0], lost=frozenset({0}))
        with pytest.raises(TimeoutError):
            await account.generate(0)
        assert now_s() == pytest.approx(WINDOW.timeout_s, abs=0.01)
        await account.generate(0)
        assert account.paid == 2

    _run(story())


def _account(terms: Terms, seconds: list[float], lost: frozenset[int] = frozenset()) -> VirtualAccount:
    return VirtualAccount(Batch(terms, seconds, lost), random.Random(0))


def _run(story: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(story)


def test_a_script_waits_as_long_as_the_provider_says() -> None:
    class OnceBusy:
        """Refuses the first call."""

        calls = 0

        async def generate(self, _picture: int) -> None:
            self.calls += 1
            if self.calls == 1:
                raise RefusedError("images", 30.0)

        async def submit(self, _picture: int) -> str:
            raise NotImplementedError

        async def is_over(self, _task: str) -> bool:
            raise NotImplementedError

    async def story() -> float:
        made = Counter[int]()
        script = Script(WINDOW, OnceBusy(), lambda picture: made.update([picture]), random.Random(0))
        await script.all_of([3])
        assert made == {3: 1}
        return now_s()

    assert 30 <= _run(story()) <= 30 + WINDOW.backoff_s


def test_coroutines_that_all_wait_for_each_other_end_the_run() -> None:
    async def story() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="wait for each other"):
        _run(story())


def test_shares_are_all_pictures_once() -> None:
    for strategy in STRATEGIES.values():
        shares = [strategy.share(process, 40) for process in range(strategy.processes)]
        assert [picture for share in shares for picture in share] == list(range(40))


def test_a_sender_that_loses_no_moment_is_slower_than_the_bound_where_calls_overlap() -> None:
    for seed in range(3):
        window, hunyuan = (Batch.of(terms, seed, bad_day=False) for terms in ACCOUNTS)
        assert window.optimum_s < window.in_order_s
        assert hunyuan.optimum_s == pytest.approx(hunyuan.in_order_s)


def test_a_row_has_the_medians_of_its_batches() -> None:
    def one(bad_day: bool, seed: int, makespan_s: float, made: int) -> Outcome:
        return Outcome("window", "serial", bad_day, seed, 10, made, 7, 11, makespan_s, 10.0, 12.0)

    batches = [one(False, seed, makespan_s, 10) for seed, makespan_s in enumerate((20, 30, 25))]
    (row,) = rows([*batches, one(True, 0, 12, 5)])
    assert (row.times_optimum, row.least, row.most) == (2.5, 2, 3)
    assert row.in_order == 1.2
    assert (row.lost, row.bad_lost) == (0, 5)
    assert (row.paid_a_picture, row.bad_paid_a_picture) == (1.1, 2.2)
