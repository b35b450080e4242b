"""The benchmark of pictures still runs, on a small scale, and its pictures have the sizes that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.smoke import run_small

SMALL = ("--pictures=1", "--seconds=0.4", "--repeats=1")


def test_pictures_are_measured_and_leave_their_figures(tmp_path: Path) -> None:
    _, written = run_small("item.pictures", tmp_path, *SMALL)
    assert len(written["runs"]) == 1
    assert len(written["summary"]) == 10
    assert all(figure["value"] is not None for figure in written["summary"])
    assert written["environment"]["bytes"]["png"] == pytest.approx(1_300_000, rel=0.1)
    assert written["environment"]["bytes"]["jpeg"] == pytest.approx(300_000, rel=0.1)
