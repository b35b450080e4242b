"""The benchmark of places runs, and its arithmetic is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.account import places
from benchmarks.account.places import Scenario
from benchmarks.account.places_figures import Look, gap_by_turns_s, handed_on_s, polls_used, span
from providers.simulator.settings import Rate


def task(at_s: float, duration_s: float, gap_s: float = 0.0) -> dict[str, Any]:
    return {"at_s": at_s, "ended_at_s": at_s + duration_s, "found_at_s": at_s + duration_s + gap_s}


def test_tasks_without_a_gap_are_the_optimum() -> None:
    assert span([task(0, 2), task(2, 3), task(5, 1)], 1) == 1
    assert span([task(0, 2), task(0, 3), task(2, 5), task(3, 5), task(7, 1)], 2) == 1


def test_each_gap_is_a_part_of_the_span() -> None:
    assert span([task(0, 2, 1), task(3, 2, 1)], 1) == 6 / 4
    assert span([task(0, 2), task(0, 2), task(3, 2), task(3, 2), task(6, 1)], 2) == 6 / 4


def test_a_place_is_handed_on_to_the_next_call_after_the_news() -> None:
    assert handed_on_s([task(0, 2, 1), task(4, 2, 1), task(7.5, 2)], 1) == [1, 0.5]
    assert handed_on_s([task(0, 5), task(0, 2, 1), task(4, 9), task(5.5, 2)], 2) == [1, 0.5]


def test_turns_find_an_end_when_its_task_has_its_turn() -> None:
    assert gap_by_turns_s([2.5], 1, 1) == 0.5
    assert gap_by_turns_s([0.5, 0.5, 0.5], 3, 1) == (0.5 + 1.5 + 2.5) / 3
    assert gap_by_turns_s([0.5, 1.5], 1, 1) == 0.5, "the next one starts at 1 s and ends at 2.5 s"


def test_polls_are_counted_while_all_places_are_taken() -> None:
    looks = [Look(second, 90 * (second // 10), 0 if second < 36 else 6) for second in range(60)]
    assert polls_used(looks, 5, 10.0) == pytest.approx(0.9)
    assert polls_used(looks[:12], 5, 10.0) == 0, "too short to tell"


def test_a_run_under_a_limit_of_polls_is_compared_with_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Scenario("tiny", "tiny", lambda _dice: [0.5] * 8, in_flight=4, since=0, limit=Rate(4, 1.0))
    monkeypatch.setattr(places, "SCENARIOS", (tiny,))
    monkeypatch.setattr(places, "WORKERS", 1)
    places.main(["--json", str(tmp_path / "places.json")])
    (run,) = json.loads((tmp_path / "places.json").read_text())["runs"]
    assert (run["most_at_once"], run["refused"]) == (4, 0)
    assert run["polls_used"] >= 0
    assert run["gap_by_turns_s"] > 0


def test_a_run_writes_what_it_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Scenario("tiny", "tiny", lambda _dice: [0.2] * 3, in_flight=1, since=0, seconds=60)
    monkeypatch.setattr(places, "SCENARIOS", (tiny,))
    monkeypatch.setattr(places, "WORKERS", 1)
    assert places.main(["--repeats", "1", "--json", str(tmp_path / "places.json")]) == 0
    (run,) = json.loads((tmp_path / "places.json").read_text())["runs"]
    assert (run["most_at_once"], run["refused"]) == (1, 0)
    assert run["polls"] >= 1
    assert run["mean_gap_s"] >= 0
