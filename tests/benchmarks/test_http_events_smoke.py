"""The benchmark of listeners still runs, end to end, and every listener has every event."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.http_events import Figures, table

ROOT = Path(__file__).parents[2]


def test_a_few_listeners_hear_every_event_and_the_figures_are_written(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "events.json"
    options = ["--listeners", "10", "--rate", "10", "--seconds", "1", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.http_events", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())["figures"]
    assert (figures["listeners"], figures["events"], figures["frames"]) == (10, 10, 100)


def test_frames_that_were_lost_are_shown_in_capitals() -> None:
    figures = Figures(2, 5, 10.0, True, 10, 1.0, 2.0, 20.0, 20.0, 100.0)
    assert figures.reached
    assert "LOST" not in table(figures)
    missing = replace(figures, frames=9)
    assert not missing.reached
    assert "1 LOST" in table(missing)
