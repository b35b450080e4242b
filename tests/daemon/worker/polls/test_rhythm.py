"""The next poll is where the place time that is expected to be lost equals the price of a poll."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.worker.polls.rhythm import (
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
AGES_S = st.floats(0.0, 1000.0)
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


@given(HISTORIES, AGES_S, AGES_S, AGES_S)
def test_without_a_poll_the_expected_loss_grows_and_never_faster_than_time(
    ends: list[Seen], ran_s: float, wait_s: float, more_s: float
) -> None:
    rule, age_s = PollRule(ends), ran_s + wait_s
    assert rule.lost_s(ran_s, ran_s) == 0
    loss_s, later_s = rule.lost_s(ran_s, age_s), rule.lost_s(ran_s, age_s + more_s)
    assert -1e-9 <= loss_s <= later_s + 1e-9
    assert later_s - loss_s <= more_s + 1e-9


@given(st.lists(st.floats(1.0, 50.0), min_size=FEWEST, max_size=KEPT), st.floats(0.0, 50.0), PRICES)
def test_a_poll_that_is_due_is_worth_its_price(durations_s: list[float], ran_s: float, price: float) -> None:
    rule = PollRule(exact(*durations_s))
    due_s = rule.next_s(ran_s, price)
    if ran_s > 0 and len(rule._points) - bisect_right(rule._points, ran_s) < 8:
        return  # the growth with the age may hold there
    assert rule.lost_s(ran_s, due_s) >= (price if ran_s else URGENT) * rule._mean_s - 1e-9


@pytest.mark.parametrize("ends", [[], exact(*[4.0] * KEPT)])
def test_a_task_that_outlives_what_is_known_is_worth_a_poll_too(ends: list[Seen]) -> None:
    rule = PollRule(ends)
    assert 0 < rule.lost_s(100, 101) < rule.lost_s(100, 200) < 100
    assert rule.lost_s(10, 12) > rule.lost_s(100, 102), "a task that has run for long goes on for long"


def test_an_end_that_is_due_is_worth_more_than_a_task_that_has_hardly_begun() -> None:
    rule = PollRule(exact(*[100.0] * KEPT))
    assert rule.lost_s(0, 110) > rule.lost_s(98, 109) > 0
    assert rule.lost_s(0, 60) == 0


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


def test_late_first_polls_are_no_sign_of_faster_tasks() -> None:
    late, known = [Seen(0, 14.0)] * EARLY_MOST, exact(*[10.0] * 20)
    assert not PollRule([*late, *known]).is_cold
    assert not PollRule([Seen(0, 9.0), *late[1:], *known]).is_cold, "two of them say nothing"
    assert PollRule([*[Seen(0, 9.0)] * EARLY_MOST, *known]).is_cold


def scarce(by_worth: bool, dice: random.Random) -> float:
    """The mean gap of 600 tasks of 120 s +-20 %, 200 at once, of which one is polled each half second."""
    ends: list[Seen] = []
    rule, gaps_s, now_s, left = PollRule(), [], 0.0, 600
    running: list[tuple[float, float, float]] = []  # began at, ran at the age, ends at the age
    while running or left:
        while left and len(running) < 200:
            running.append((now_s, 0.0, dice.uniform(96, 144)))
            left -= 1
        now_s += 0.5
        polled = max(
            running,
            key=lambda task: rule.lost_s(task[1], now_s - task[0]) if by_worth else now_s - task[0] - task[1],
        )
        began_s, ran_s, ends_s = polled
        running.remove(polled)
        if (age_s := now_s - began_s) < ends_s:
            running.append((began_s, age_s, ends_s))
            continue
        gaps_s.append(age_s - ends_s)
        ends = [end for end in [Seen(ran_s, age_s), *ends] if not end.is_vague][:KEPT]
        rule = PollRule(ends)
    return sum(gaps_s) / len(gaps_s)


def test_scarce_polls_find_ends_sooner_than_turns_do() -> None:
    assert scarce(True, random.Random(7)) < 0.6 * scarce(False, random.Random(7))


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
