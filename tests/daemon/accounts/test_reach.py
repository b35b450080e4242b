"""While a provider is not reached, its routes try one call at a time, after pauses that grow."""

from __future__ import annotations

import pytest

from daemon.accounts.routes import FORGOTTEN_S, LONGEST_PAUSE_S, TURN_S, Reach
from pixmill.broker.backoff import pause_s


class Way(Reach):
    """A way with a clock of its own; the pause after `n` failures is `n` seconds."""

    def __init__(self) -> None:
        self.now = 100.0
        super().__init__(clock=lambda: self.now, pause_s=lambda failures, _longest_s: failures + 1.0)


@pytest.fixture
def way() -> Way:
    return Way()


def test_while_the_provider_is_reached_every_call_may_begin(way: Way) -> None:
    assert [bool(way.take_turn()) for _ in range(3)] == [True] * 3
    assert (way.lost, way.wait_s) == (False, 0)


def test_after_a_failure_one_call_tries_when_the_pause_is_over(way: Way) -> None:
    way.failed("x")
    assert not way.take_turn()
    way.now += 1
    assert [bool(way.take_turn()) for _ in range(3)] == [True, False, False]


def test_calls_that_fail_together_are_one_failure_and_each_try_is_one_more(way: Way) -> None:
    for _ in range(64):
        way.failed("x")
    assert (way.failures, way.wait_s) == (1, 1)
    for failures in (2, 3, 4):
        way.now += way.wait_s
        assert way.take_turn()
        way.failed("y")
        assert (way.failures, way.wait_s, way.why) == (failures, failures, "y")


def test_a_call_that_leaves_opens_the_way_for_all(way: Way) -> None:
    way.failed("x")
    way.now += 1
    assert way.take_turn()
    way.reached()
    assert [bool(way.take_turn()) for _ in range(3)] == [True] * 3
    way.failed("x")
    assert way.wait_s == 1, "the pauses begin anew"


@pytest.mark.parametrize(("ends", "wait_s"), [(True, 0), (False, TURN_S)])
def test_a_try_that_sent_nothing_gives_its_turn_to_the_next(way: Way, ends: bool, wait_s: float) -> None:
    way.failed("x")
    way.now += 1
    turn = way.take_turn()
    assert turn is not None
    if ends:
        turn.ended()
    assert way.wait_s == wait_s


def test_a_run_that_began_before_ends_neither_a_pause_nor_the_turn_of_another(way: Way) -> None:
    before = way.take_turn()
    assert before is not None
    way.failed("x")
    before.ended()
    assert way.wait_s == 1
    way.now += 1
    assert way.take_turn()
    before.ended()
    assert way.wait_s == TURN_S


def test_a_try_whose_turn_is_over_does_not_end_the_next_one(way: Way) -> None:
    way.failed("x")
    way.now += 1
    slow = way.take_turn()
    way.now += TURN_S
    assert slow is not None
    assert way.take_turn()
    slow.ended()
    assert way.wait_s == TURN_S


def test_a_failure_is_forgotten_when_no_call_follows_it(way: Way) -> None:
    way.failed("x")
    way.now += 1
    way.take_turn()
    way.failed("x")
    way.now += 2 + FORGOTTEN_S - 0.5
    assert way.lost
    way.now += 0.5
    assert (way.lost, way.failures, way.wait_s) == (False, 0, 0)
    way.failed("x")
    assert (way.failures, way.wait_s) == (1, 1), "the pauses begin anew"


def test_a_try_that_ends_late_brings_no_forgotten_failure_back(way: Way) -> None:
    way.failed("x")
    way.now += 1
    turn = way.take_turn()
    assert turn is not None
    way.now += TURN_S + FORGOTTEN_S
    turn.ended()
    assert not way.lost


def test_the_real_pauses_grow_to_half_a_minute() -> None:
    pauses = [pause_s(failures, LONGEST_PAUSE_S) for failures in range(40)]
    assert pauses[0] <= 0.05
    assert all(15 <= pause <= 30 for pause in pauses[12:])
