"""The file of a benchmark is complete, and no ratio comes from a busy machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.processes import environment, run_child


def about(load: float) -> dict[str, Any]:
    return {"load_average_before": (load, 0.0, 0.0), "cpus": 2, "aof": False}


def test_above_a_load_of_one_there_is_a_sentence_in_the_place_of_ratios() -> None:
    assert report.ratio(3.0, 2.0, about(1.0)) == 1.5
    assert report.ratio(3.0, 2.0, about(1.01)) is None
    assert report.ratio(3.0, None, about(0.0)) is None
    assert "the load was 1.1 before the start" in report.facts(about(1.1))
    assert report.facts(about(1.0)) == "load average before 1.0/0.0/0.0, cpus 2, aof off"


def test_a_file_has_the_machine_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "part.json"
    report.write(path, environment(), summary=[{"name": "a"}], runs=[])
    written = json.loads(path.read_text())
    assert written["environment"].keys() >= {
        "python",
        "cpus",
        "server",
        "load_average",
        "load_average_after",
    }
    assert (written["summary"], written["runs"]) == ([{"name": "a"}], [])


def test_each_round_has_every_contestant_once() -> None:
    drawn = [*report.rounds(["a", "b", "c"], 2)]
    assert sorted(drawn) == [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "b"), (2, "c")]
    assert [number for number, _ in drawn] == [1, 1, 1, 2, 2, 2]


def test_a_spread_shows_its_extremes() -> None:
    assert report.Spread.of([3.0, 1.0, 2.0]).shown(1) == "2.0 [1.0-3.0]"


def test_a_table_has_words_to_the_left_and_numbers_to_the_right() -> None:
    text = report.table(("name", "us"), [("a", "10,000"), ("longer", "9")])
    assert text.splitlines() == ["name        us", "a       10,000", "longer       9"]


def test_a_child_is_measured_over_its_whole_life() -> None:
    ended = run_child([sys.executable, "-c", "sum(range(10**6)); print('done')"], {}, 30)
    assert (ended.stdout, ended.cpu_s > 0) == ("done\n", True)
    assert ended.wall_s > 0


def test_a_child_that_fails_ends_the_benchmark_and_one_that_hangs_is_named() -> None:
    with pytest.raises(SystemExit, match=r"(?s)ended with 3 after .*no such item"):
        run_child(
            [sys.executable, "-c", "import sys; print('no such item', file=sys.stderr); sys.exit(3)"], {}, 30
        )
    with pytest.raises(TimeoutError, match=r"has not ended after 0 s"):
        run_child([sys.executable, "-c", "import time; time.sleep(60)"], {}, 0.2)
