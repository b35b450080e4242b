"""The polling benchmark still runs, end to end, and its own claim holds on a small scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.account.polling import Figures, table
from tests.benchmarks.smoke import run_small


@pytest.mark.timed
def test_a_few_tasks_are_polled_under_their_quota_and_the_figures_written(tmp_path: Path) -> None:
    options = ("--tasks", "40", "--latency", "1.5", "--polls", "20/2s")
    stdout, written = run_small("account.polling", tmp_path, *options, timeout_s=50)
    figures = written["figures"]
    assert written["kept"] is True
    assert (figures["succeeded"], figures["polls_refused"]) == (40, 0)
    assert figures["polls"] >= 40
    assert 10 < figures["most_polls_in_a_period"] <= 20, "the quota is used, and never exceeded"
    assert "kept" in stdout


def test_an_exceeded_quota_is_shown_in_capitals() -> None:
    figures = Figures(1, 1, 1, 1.0, 1.0, 50.0, 9, 9.0, None, "5/1s", 6, 0)
    assert not figures.kept
    assert "EXCEEDED" in table(figures)
