"""The values that cross the providers' interface."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import PollPlan

times = st.floats(0.01, 60, allow_nan=False)
draws = st.floats(0, 1, allow_nan=False)


@given(first_s=times, longer_s=times, growth=st.floats(1, 1e6), draw=draws)
def test_waits_grow_to_the_longest_and_stay_within_a_tenth_of_the_plan(
    first_s: float, longer_s: float, growth: float, draw: float
) -> None:
    longest_s = first_s + longer_s
    waits_s = list(islice(PollPlan(first_s, growth, longest_s).waits_s(lambda: draw), 2000))
    assert waits_s == sorted(waits_s)
    assert first_s * 0.89 < waits_s[0] < first_s * 1.11
    assert waits_s[-1] < longest_s * 1.11


@pytest.mark.parametrize("plan", [(0.0, 1.5, 10.0), (-1.0, 1.5, 10.0), (20.0, 1.5, 10.0), (2.0, 0.5, 10.0)])
def test_a_plan_that_would_poll_without_a_pause_or_ever_faster_is_refused(
    plan: tuple[float, float, float],
) -> None:
    with pytest.raises(ValueError, match="poll plan"):
        PollPlan(*plan)
