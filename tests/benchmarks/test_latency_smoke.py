"""The benchmarks of one item's way still run, end to end, without the peer's environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.item import latency, paced
from tests.benchmarks.smoke import MET, run_small


@pytest.mark.timeout(120)
def test_a_job_has_three_steps_in_series_until_its_first_byte(tmp_path: Path) -> None:
    printed, written = run_small("item.latency", tmp_path, "--samples", "3", "--without-saq", exit_codes=MET)
    assert "pixmill" in printed
    [own] = written["runs"]
    assert len(own["ns"]) == 3
    assert all(ns > 0 for ns in own["ns"])
    assert written["environment"]["commands_example"] == ["accept", "claim"], "and the call itself"


@pytest.mark.timeout(120)
def test_the_scripts_of_a_paced_item_have_their_times(tmp_path: Path) -> None:
    printed, written = run_small("item.paced", tmp_path, "--items", "3", "--pause", "0", exit_codes=MET)
    [summary] = written["summary"]
    steps = {(row["mode"], row["step"]) for row in summary["steps"]}
    assert {("now", "permit, claim, intent"), ("ahead", "permit"), ("ahead", "claim, intent")} <= steps
    assert {"accept", "acquire", "claim", "settle", "release"} <= summary["longest_us"].keys()
    assert "longest run" in printed


QUIET = {"load_average": [0.5]}


def test_a_ratio_compares_the_medians_of_a_quiet_machine() -> None:
    measured_ns = {"pixmill": [3_000_000, 1_000_000, 9_000_000], "saq": [2_000_000]}
    own, peer = latency.summarise(measured_ns, QUIET)
    assert (own.p50_ms, own.p99_ms, own.to_saq) == (3.0, 9.0, 1.5)
    assert latency.table([own, peer]).splitlines()[1].split()[-1] == "1.50"
    assert [row.to_saq for row in latency.summarise(measured_ns, {"load_average": [1.5]})] == [None, None]
    [alone] = latency.summarise({"pixmill": [1_000_000]}, QUIET)
    assert latency.table([alone]).splitlines()[1].split()[-1] == "-"


def test_the_steps_of_a_mode_add_up() -> None:
    rows = paced.summarise({"now": {"accept": [1, 2, 9], "settle": [4, 4, 4]}})
    assert [(row.step, row.median_us) for row in rows] == [("accept", 2), ("settle", 4), ("all", 6)]
