"""The next poll is where the place time that is expected to be lost equals the price of a poll."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.worker.polls.rule import (
    EARLY_MOST,
    EASY,
    FEWEST,
    KEPT,
    LONGEST_S,
    LONGEST_WAIT_S,
    SHORTEST_WAIT_S,
    URGENT,
    PollRule,
    Seen,
)

LOW_S = st.floats(0.0, 600.0)
ENDS = st.builds(lambda low_s, more_s: Seen(low_s, low_s + more_s), LOW_S, st.floats(0.01, 60.0))
HISTORIES = st.lists(ENDS, max_size=KEPT + 10)
PRICES = st.sampled_from([URGENT, EASY, 0.1])
USELESS = [Seen(-1, 5), Seen(5, 4), Seen(0, nan), Seen(0, inf), Seen(1, LONGEST_S + 1), Seen(4, 34)]


def exact(*durations_s: float) -> list[Seen]:
    return [Seen(duration_s - 0.001, duration_s + 0.001) for duration_s in durations_s]


@given(HISTORIES, st.floats(0.0, 1000.0), PRICES)
def test_the_next_poll_is_never_at_once_and_never_far(ends: list[Seen], age_s: float, price: float) -> None:
    wait_s = PollRule(ends).next_s(age_s, price) - age_s
    assert SHORTEST_WAIT_S - 1e-9 <= wait_s <= LONGEST_WAIT_S + 1e-9


@given(HISTORIES, st.floats(0.0, 1000.0))
def test_a_dearer_poll_never_comes_earlier(ends: list[Seen], age_s: float) -> None:
    rule = PollRule(ends)
    assert rule.next_s(age_s, URGENT) <= rule.next_s(age_s, EASY) <= rule.next_s(age_s, 0.1)


@given(st.lists(st.floats(1.0, 50.0), min_size=FEWEST, max_size=KEPT), st.floats(0.0, 50.0), PRICES)
def test_the_expected_loss_at_the_next_poll_is_its_price(
    durations_s: list[float], age_s: float, price: float
) -> None:
    rule = PollRule(exact(*durations_s))
    points, due_s = rule._points, rule.next_s(age_s, price)
    left = points[bisect_right(points, age_s) :]
    if not left or due_s <= age_s + SHORTEST_WAIT_S + 1e-9 or (age_s > 0 and len(left) < 8):
        return  # a bound holds there, not the price
    lost_s = sum(max(0.0, due_s - end) for end in left) / len(left)
    worth = price if age_s > 0 else URGENT
    assert lost_s == pytest.approx(worth * rule._mean_s, rel=1e-6, abs=1e-9)


@given(HISTORIES, st.sampled_from(USELESS))
def test_a_duration_that_teaches_nothing_changes_nothing(ends: list[Seen], useless: Seen) -> None:
    sound, spoilt = PollRule(ends[:KEPT]), PollRule([useless, *ends[:KEPT]])
    assert [sound.next_s(age_s) for age_s in (0.0, 1.0, 30.0)] == [
        spoilt.next_s(age_s) for age_s in (0.0, 1.0, 30.0)
    ]


def test_few_durations_teach_nothing() -> None:
    assert PollRule(exact(10, 11, 12, 13)).next_s(0) == PollRule().next_s(0) == 0.5
    assert PollRule(exact(10, 11, 12, 13, 14)).next_s(0) > 8


def test_only_the_newest_durations_count() -> None:
    assert PollRule(exact(*[4.0] * KEPT, *[90.0] * 50)).next_s(0) == PollRule(exact(*[4.0] * KEPT)).next_s(0)


def test_ends_that_the_first_polls_found_void_the_slower_ones_before_them() -> None:
    slow, early = exact(*[20.0] * 20), [Seen(0, 19.0)] * EARLY_MOST
    assert not PollRule([*early[1:], *slow]).is_cold
    assert PollRule([*early, *slow]).is_cold
    assert PollRule([*exact(4, 4, 4, 4, 4), *early, *slow]).next_s(0) == pytest.approx(4, rel=0.1)


def replay(
    draw: Callable[[], float], count: int, price: float = URGENT
) -> Iterator[tuple[float, float, int, bool]]:
    """Tasks one after the other: duration, age at which the end was noticed, polls, whether nothing was known."""
    ends: list[Seen] = []
    for _ in range(count):
        rule, duration_s, before_s, age_s, polls = PollRule(ends), draw(), 0.0, 0.0, 0
        while age_s < duration_s:
            before_s, age_s, polls = age_s, rule.next_s(age_s, price), polls + 1
        ends = [Seen(before_s if polls > 1 else 0.0, age_s), *ends][:KEPT]
        yield duration_s, age_s, polls, rule.is_cold


DRAWS: dict[str, Callable[[random.Random], float]] = {
    "4 s": lambda dice: dice.uniform(3.2, 4.8),
    "10 s": lambda dice: dice.uniform(8, 12),
    "lognormal 0.5": lambda dice: 10 * dice.lognormvariate(0, 0.5),
    "lognormal 1.0": lambda dice: 10 * dice.lognormvariate(0, 1.0),
    "5 s or 25 s": lambda dice: (
        dice.uniform(4.75, 5.25) if dice.random() < 0.7 else dice.uniform(23.75, 26.25)
    ),
}
BOUNDS = {
    "4 s": (1.03, 8),
    "10 s": (1.03, 8),
    "lognormal 0.5": (1.05, 12),
    "lognormal 1.0": (1.07, 14),
    "5 s or 25 s": (1.03, 8),
}


@pytest.mark.parametrize("name", DRAWS)
def test_ends_are_noticed_soon_and_at_few_polls(name: str) -> None:
    dice = random.Random(7)
    tasks = list(replay(lambda: DRAWS[name](dice), 800))
    (span, polls), later, first = BOUNDS[name], tasks[10:], tasks[:10]
    assert sum(noticed for _, noticed, *_ in later) <= span * sum(duration for duration, *_ in later)
    assert sum(count for _, _, count, _ in later) <= polls * len(later)
    assert sum(noticed for _, noticed, *_ in first) <= 1.10 * sum(duration for duration, *_ in first)
    assert sum(count for _, _, count, _ in first) <= 40 * len(first)


@pytest.mark.parametrize("name", DRAWS)
def test_where_nobody_waits_there_are_fewer_polls_and_little_is_forgotten(name: str) -> None:
    def later(price: float) -> list[tuple[float, float, int, bool]]:
        dice = random.Random(7)
        return list(replay(lambda: DRAWS[name](dice), 800, price))[10:]

    easy, urgent = later(EASY), later(URGENT)
    assert sum(count for _, _, count, _ in easy) < 0.8 * sum(count for _, _, count, _ in urgent)
    assert sum(is_cold for *_, is_cold in easy) <= 0.03 * len(easy)


def test_tasks_that_become_faster_are_followed() -> None:
    dice = random.Random(7)
    durations = iter([dice.uniform(8, 12) for _ in range(60)] + [dice.uniform(3.2, 4.8) for _ in range(60)])
    later = list(replay(lambda: next(durations), 120))[80:]
    assert sum(noticed for _, noticed, *_ in later) <= 1.04 * sum(duration for duration, *_ in later)
