"""The benchmark of an item's cost still runs, end to end, on a small scale."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.flight.__main__ import CPU, GOALS, MEMORY, Row, summarise, table
from tests.benchmarks.smoke import MET, run_small


@pytest.mark.timeout(120)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_few_items_have_their_cost_and_the_figures_are_written(tmp_path: Path) -> None:
    options = ("--items", "20", "--hanging", "20", "--repeats", "1")
    printed, written = run_small("flight", tmp_path, *options, exit_codes=MET)
    assert [run["name"] for run in written["runs"]] == list(GOALS)
    assert all(run["value"] > 0 for run in written["runs"] if run["name"] != MEMORY)
    assert all(name in printed for name in GOALS)


def test_the_median_and_the_spread_of_the_repeats_stand_beside_the_goal() -> None:
    rows = summarise([{"name": CPU, "value": value} for value in (4.0, 9.0, 5.0)])
    assert rows == [Row(CPU, "ms", 5.0, 4.0, 9.0, 5.0)]
    line = table(rows).splitlines()[1]
    assert line.removeprefix(CPU).split() == ["5.00", "ms", "4.00", "-", "9.00", "<=", "5"]
