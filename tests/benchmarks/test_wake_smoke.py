"""The benchmark of an idle worker still runs, end to end, for contestants without an environment of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.drain.wake import summarise
from tests.benchmarks.smoke import run_small


@pytest.mark.timeout(120)
def test_single_items_are_started_and_leave_their_latencies(tmp_path: Path) -> None:
    _, document = run_small("drain.wake", tmp_path, "--items=3", "--repeats=1", "--only", "bare", "pixmill")
    assert sorted((row["name"], row["samples"]) for row in document["summary"]) == [
        ("bare", 3),
        ("pixmill", 3),
    ]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in document["summary"])


def test_rounds_are_taken_together_and_compared_with_the_fastest_peer() -> None:
    runs = [("saq", [2.0, 3.0]), ("saq", [2.0]), ("arq", [4.0]), ("pixmill", [3.0])]
    found = [{"name": name, "version": "1", "latency_ms": samples} for name, samples in runs]
    rows = {row.name: row for row in summarise(found, {"load_average": (0.5, 0.0, 0.0)})}
    assert (rows["saq"].samples, rows["saq"].p50_ms, rows["saq"].p99_ms) == (3, 2.0, 3.0)
    assert (rows["pixmill"].to_fastest_peer, rows["arq"].to_fastest_peer) == (1.5, 2.0)
