"""The benchmark of places runs, and its arithmetic is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import places
from benchmarks.places import Scenario, span


def task(at_s: float, duration_s: float, gap_s: float = 0.0) -> dict[str, Any]:
    return {"at_s": at_s, "ended_at_s": at_s + duration_s, "found_at_s": at_s + duration_s + gap_s}


def test_tasks_without_a_gap_are_the_optimum() -> None:
    assert span([task(0, 2), task(2, 3), task(5, 1)], 1) == 1
    assert span([task(0, 2), task(0, 3), task(2, 5), task(3, 5), task(7, 1)], 2) == 1


def test_each_gap_is_a_part_of_the_span() -> None:
    assert span([task(0, 2, 1), task(3, 2, 1)], 1) == 6 / 4
    assert span([task(0, 2), task(0, 2), task(3, 2), task(3, 2), task(6, 1)], 2) == 6 / 4


def test_a_run_writes_what_it_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Scenario("tiny", "tiny", lambda _dice: [0.2] * 3, in_flight=1, since=0, seconds=60)
    monkeypatch.setattr(places, "SCENARIOS", (tiny,))
    monkeypatch.setattr(places, "WORKERS", 1)
    assert places.main(["--repeats", "1", "--json", str(tmp_path / "places.json")]) == 0
    (run,) = json.loads((tmp_path / "places.json").read_text())["runs"]
    assert (run["most_at_once"], run["refused"]) == (1, 0)
    assert run["polls"] >= 1
    assert run["mean_gap_s"] >= 0
