"""The benchmark of stalls runs, and tells 429s of late calls from others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.account import stalls
from benchmarks.account.refusals import refusals
from benchmarks.account.stalls import Late, Run, Stop


def call(prompt: str, at_s: float, status: int = 200, key: str = "k") -> dict[str, Any]:
    return {
        "at_s": at_s,
        "handled_at_s": at_s,
        "key": key,
        "prompt": prompt,
        "status": status,
        "admitted": status == 200,
        "refused": "" if status == 200 else "images",
    }


CALLS = [call("b/1", 10.0), call("b/2", 10.4), call("b/3", 10.9, 429), call("b/x", 10.8, key="other")]


@pytest.mark.timed
def test_a_tiny_run_stops_workers_and_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "EVERY_S", (0.05, 0.1))
    out = tmp_path / "deeper" / "stalls.json"
    code = stalls.main(["--runs", "1", "--items", "10", "--json", str(out)])
    written = json.loads(out.read_text())
    (run,) = written["runs"]
    assert run["stops"] > 0
    assert set(run["seconds"]) == {"window", "bucket"}
    assert run["seconds"]["bucket"] > 0.7, "ten calls wait for six tokens"
    assert code == (0 if written["kept"] else 1)


def test_a_429_is_named_with_the_calls_before_it_and_the_stops_around_it() -> None:
    (refusal,) = refusals(CALLS, 5)
    run = Run()
    stalls._sort_in(run, refusal, 9.0, [], [Stop(2, 10.5, 10.7), Stop(1, 8.0, 8.2)])
    (text,) = run.other_refusals
    assert "'b/3' arrived at 1.900 s" in text
    assert "calls before it arrived 0.500, 0.900 s earlier" in text
    assert "worker 2 stood still from 1.500 to 1.700 s" in text
    assert "worker 1" not in text, "that stop was long over"


@pytest.mark.parametrize("late", ["b/3", "b/2"], ids=["the refused call", "one before it"])
def test_a_429_around_a_call_that_left_late_counts_apart(late: str) -> None:
    (refusal,) = refusals(CALLS, 5)
    at_s = next(call["at_s"] for call in CALLS if call["prompt"] == late)
    run = Run()
    stalls._sort_in(run, refusal, 9.0, [Late(0, f"default/{late}", at_s + 0.01, 0.2)], [])
    assert not run.other_refusals
    assert f"default/{late} left 0.200 s late, from worker 0" in run.late_refusals[0]
    stalls._sort_in(run, refusal, 9.0, [Late(0, "default/b/0", at_s, 0.2)], [])
    assert len(run.other_refusals) == 1, "another call's lateness explains nothing"


def test_late_calls_are_read_from_a_replicas_log() -> None:
    line = {"item": "default/b/1", "late_s": 0.2, "event": "a call left late", "level": "debug"}
    log = f"not JSON\n{json.dumps(line | {'timestamp': '2026-01-01T00:00:00.5Z'})}\n"
    (late,) = stalls.late_calls(1, log)
    assert (late.worker, late.item, late.late_s) == (1, "default/b/1", 0.2)


@pytest.mark.parametrize(
    ("runs", "kept"),
    [
        ([Run()] * 20, True),
        ([Run(late_refusals=["x"]), *[Run()] * 19], True),
        ([Run(late_refusals=["x"])] * 2 + [Run()] * 18, False),
        ([Run(other_refusals=["x"]), *[Run()] * 19], False),
    ],
)
def test_one_late_429_in_twenty_runs_is_allowed_and_no_other(runs: list[Run], kept: bool) -> None:
    assert stalls.verdict(runs) is kept
