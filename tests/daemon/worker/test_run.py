"""The phases of a run: the allowed order, and the state of the call in each phase."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from daemon.queue.messages import LeaseLost
from daemon.worker.run import FOLLOWS, Phase, Run

WAITING, CALLING, LEFT, ORPHANED, SETTLING, LOST = Phase


def in_phase(phase: Phase) -> Run:
    item: Any = type("Item", (), {"uid": "default//a"})
    route: Any = None
    return Run(item, route, None, phase=phase)


@pytest.mark.parametrize(
    "way",
    [
        (WAITING, CALLING, LEFT, SETTLING),  # a call
        (WAITING, SETTLING),  # the task of an earlier run
        (WAITING, CALLING, WAITING, SETTLING),  # a permit that was recalled while it connected
        (
            WAITING,
            CALLING,
            LEFT,
            LEFT,
            WAITING,
            SETTLING,
        ),  # a second connection, and nothing of it left either
        (WAITING, CALLING, LEFT, ORPHANED, SETTLING),
        (WAITING, CALLING, LEFT, LOST),  # the task is noted, so its new owner polls it
        (WAITING, LOST),
    ],
)
def test_a_run_follows_the_allowed_phases(way: tuple[Phase, ...]) -> None:
    run = in_phase(way[0])
    for before, phase in pairwise(way):
        assert run.phase is before
        run.enter(phase)
    assert run.phase is way[-1]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("then", Phase)
def test_a_step_out_of_order_is_refused(phase: Phase, then: Phase) -> None:
    run = in_phase(phase)
    if then in FOLLOWS[phase]:
        run.enter(then)
        assert run.phase is then
        return
    with pytest.raises(LeaseLost if phase in (ORPHANED, LOST) else RuntimeError):
        run.enter(then)
    assert run.phase is phase


def test_a_run_that_lost_its_item_sends_nothing_more() -> None:
    for phase in (ORPHANED, LOST):
        assert not FOLLOWS[phase] & {CALLING, LEFT}


def test_a_call_may_have_been_sent_unless_it_was_not_begun_or_was_taken_back() -> None:
    assert [phase for phase in Phase if not in_phase(phase).sent] == [WAITING]


@pytest.mark.parametrize("end", [SETTLING, LOST])
def test_nothing_follows_the_end_of_a_run(end: Phase) -> None:
    assert FOLLOWS[end] == frozenset()
