"""The benchmark of bytes in Redis still runs, end to end, and its arithmetic is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.item.footprint import STAGES, Row, summarise, table
from tests.benchmarks.smoke import MET, run_small


@pytest.mark.timeout(120)
def test_the_benchmark_measures_each_stage_of_both_shapes(tmp_path: Path) -> None:
    options = ("--items", "120", "--repeats", "1")
    printed, written = run_small("item.footprint", tmp_path, *options, exit_codes=MET)
    assert [run["shape"] for run in written["runs"]] == ["single", "batch"]
    for run in written["runs"]:
        stages = run["stages"]
        assert stages["queued"]["payload"] == stages["running"]["payload"] < stages["finished"]["payload"]
        # With few items, the server's buffers weigh as much as what `bytes` measures, but the keys are exact.
        assert all(stage["bytes"] > 0 for stage in stages.values())
        item = [stages[name]["by_key"]["item"] for name in STAGES]
        assert stages["queued"]["payload"] < item[0] < item[1] < item[2]
    assert all(row["name"] in printed for row in written["summary"])


def test_a_figure_is_what_an_item_takes_beyond_its_payload() -> None:
    runs = [_run(queued) for queued in (900.0, 1000.0, 1400.0)]
    queued, running, finished = summarise(runs)
    assert queued == Row("queued, single", 200, 800, 700, 1200, 900)
    assert (running.beyond, running.goal) == (1300, None)
    assert (finished.payload, finished.beyond, finished.goal) == (700, 2300, 2000)
    assert "item" in table([queued], runs)


def _run(queued: float) -> dict[str, Any]:
    by_key = {"item": 400.0}
    stages = {
        "queued": {"bytes": queued, "payload": 200, "by_key": by_key},
        "running": {"bytes": 1500, "payload": 200, "by_key": by_key},
        "finished": {"bytes": 3000, "payload": 700, "by_key": by_key},
    }
    return {"shape": "single", "stages": stages}
