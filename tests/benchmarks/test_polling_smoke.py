"""The polling benchmark still runs, end to end, and its own claim holds on a small scale."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.polling import Figures, table

ROOT = Path(__file__).parents[2]


@pytest.mark.timed
def test_a_few_tasks_are_polled_under_their_quota_and_the_figures_written(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "polling.json"
    options = ["--tasks", "40", "--latency", "1.5", "--polls", "20/2s", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.polling", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(out.read_text())
    figures = written["figures"]
    assert written["kept"] is True
    assert (figures["succeeded"], figures["polls_refused"]) == (40, 0)
    assert figures["polls"] >= 40
    assert 10 < figures["most_polls_in_a_period"] <= 20, "the quota is used, and never exceeded"
    assert "kept" in done.stdout


def test_an_exceeded_quota_is_shown_in_capitals() -> None:
    figures = Figures(1, 1, 1, 1.0, 1.0, 50.0, 9, 9.0, None, "5/1s", 6, 0)
    assert not figures.kept
    assert "EXCEEDED" in table(figures)
