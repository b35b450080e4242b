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
    SHORTEST_S,
    URGENT,
    PollRule,
    Seen,
)

LOW_S = st.floats(0.0, 600.0)
ENDS = st.builds(lambda low_s, more_s: Seen(low_s, low_s + more_s), LOW_S, st.floats(0.01, 60.0))
HISTORIES = st.lists(ENDS, max_size=KEPT + 10)
PRICES = st.sampled_from([URGENT, EASY, 0.1])


def exact(*durations_s: float) -> list[Seen]:
    return [Seen(duration_s - 0.001, duration_s + 0.001) for duration_s in durations_s]


@given(HISTORIES, st.floats(0.0, 1000.0), PRICES)
def test_the_next_poll_is_later_by_the_shortest_wait_at_least(
    ends: list[Seen], age_s: float, price: float
) -> None:
    due_s = PollRule(ends).next_s(age_s, price)
    assert due_s < inf
    if age_s > 0:
        assert due_s >= age_s + SHORTEST_S - 1e-9
    else:
        assert due_s > 0


@given(HISTORIES, st.floats(0.0, 1000.0))
def test_a_dearer_poll_never_comes_earlier(ends: list[Seen], age_s: float) -> None:
    rule = PollRule(ends)
    assert rule.next_s(age_s, URGENT) <= rule.next_s(age_s, EASY) <= rule.next_s(age_s, 0.1)


@given(st.lists(st.floats(1.0, 100.0), min_size=FEWEST, max_size=KEPT), st.floats(0.0, 100.0), PRICES)
def test_the_expected_loss_at_the_next_poll_is_its_price(
    durations_s: list[float], age_s: float, price: float
) -> None:
    rule = PollRule(exact(*durations_s))
    points, due_s = rule._points, rule.next_s(age_s, price)
    first = bisect_right(points, age_s)
    left = points[first:]
    if not left or due_s <= age_s + SHORTEST_S + 1e-9 or (age_s > 0 and len(left) < 8):
        return  # a bound holds there, not the price
    lost_s = sum(max(0.0, due_s - end) for end in left) / len(left)
    assert lost_s == pytest.approx(price * rule._mean_s, rel=1e-6, abs=1e-9)


@given(
    HISTORIES, st.sampled_from([Seen(-1, 5), Seen(5, 4), Seen(0, nan), Seen(0, inf), Seen(1, LONGEST_S + 1)])
)
def test_a_duration_that_no_task_can_have_changes_nothing(ends: list[Seen], absurd: Seen) -> None:
    sound, spoilt = PollRule(ends[:KEPT]), PollRule([absurd, *ends[:KEPT]])
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


def replay(draw: Callable[[], float], count: int) -> Iterator[tuple[float, float, int]]:
    """Tasks one after the other: duration, age at which the end was noticed, polls."""
    ends: list[Seen] = []
    for _ in range(count):
        rule, duration_s, before_s, age_s, polls = PollRule(ends), draw(), 0.0, 0.0, 0
        while age_s < duration_s:
            before_s, age_s, polls = age_s, rule.next_s(age_s), polls + 1
        ends = [Seen(before_s, age_s), *ends][:KEPT]
        yield duration_s, age_s, polls


@pytest.mark.parametrize(
    ("draw", "span", "polls"),
    [
        (lambda dice: dice.uniform(3.2, 4.8), 1.03, 8),
        (lambda dice: dice.uniform(8, 12), 1.03, 8),
        (lambda dice: 10 * dice.lognormvariate(0, 0.5), 1.05, 12),
        (lambda dice: 10 * dice.lognormvariate(0, 1.0), 1.07, 14),
        (
            lambda dice: dice.uniform(4.75, 5.25) if dice.random() < 0.7 else dice.uniform(23.75, 26.25),
            1.03,
            8,
        ),
    ],
    ids=["4 s", "10 s", "lognormal 0.5", "lognormal 1.0", "5 s or 25 s"],
)
def test_ends_are_noticed_soon_and_at_few_polls(
    draw: Callable[[random.Random], float], span: float, polls: float
) -> None:
    dice = random.Random(7)
    tasks = list(replay(lambda: draw(dice), 800))
    later, first = tasks[10:], tasks[:10]
    assert sum(noticed for _, noticed, _ in later) <= span * sum(duration for duration, _, _ in later)
    assert sum(count for *_, count in later) <= polls * len(later)
    assert sum(noticed for _, noticed, _ in first) <= 1.10 * sum(duration for duration, _, _ in first)
    assert max(count for *_, count in first) <= 40


def test_tasks_that_become_faster_are_followed() -> None:
    dice = random.Random(7)
    durations = iter([dice.uniform(8, 12) for _ in range(60)] + [dice.uniform(3.2, 4.8) for _ in range(60)])
    later = list(replay(lambda: next(durations), 120))[80:]
    assert sum(noticed for _, noticed, _ in later) <= 1.04 * sum(duration for duration, _, _ in later)
