"""The benchmark of busy demos reads each run right; a script in the place of `make` writes what a demo writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import demo_busy

DOCUMENT = {
    "makespan_seconds": 19.5,
    "optimum_seconds": 19.1,
    "quota": {"images": 1},
    "kept": "KEPT",
}
Setup = Callable[..., None]


def call(at_s: float, status: int, late_s: float = 0.0) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "handled_at_s": at_s + late_s,
        "key": "k",
        "prompt": f"lamp {at_s:g}",
        "status": status,
        "admitted": status == 200,
        "refused": "" if status == 200 else "images",
    }


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """Puts a `make` on the path that leaves a ledger with these calls, prints a document and ends with this code."""

    def put(*calls: dict[str, Any], code: int = 0, prints: bool = True) -> None:
        (tmp_path / "ledger.json").write_text(json.dumps({"entries": calls}))
        (tmp_path / "document").write_text(json.dumps(DOCUMENT | {"kept": str(tmp_path)}) if prints else "")
        script = tmp_path / "make"
        script.write_text(f"#!/bin/sh\ncat '{tmp_path}/document'\nexit {code}\n")
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(demo_busy, "DROP_CACHES", tmp_path / "drop_caches")
    return put


def benched(tmp_path: Path, runs: int) -> tuple[int, dict[str, Any]]:
    out = tmp_path / "deeper" / "demo_busy.json"
    code = demo_busy.main(["--runs", str(runs), "--busy", "1", "--json", str(out)])
    return code, json.loads(out.read_text())


def test_clean_demos_keep_the_promise_and_their_caches_are_dropped(make: Setup, tmp_path: Path) -> None:
    make(call(5.0, 200, 0.02), call(6.0, 200))
    code, written = benched(tmp_path, 2)
    assert (code, written["kept"]) == (0, True)
    run = written["runs"][0]
    assert (run["exit_code"], run["makespan_s"], run["refused"]) == (0, 19.5, [])
    assert run["provider_late_s"] == pytest.approx(0.02)
    assert (tmp_path / "drop_caches").read_text() == "3\n"


def test_one_demo_of_two_with_a_429_misses_and_the_429_is_explained(
    make: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(call(5.0, 200), call(5.9, 429, 0.03))
    code, written = benched(tmp_path, 2)
    assert (code, written["kept"]) == (1, False)
    (refused,) = written["runs"][0]["refused"]
    assert "'lamp 5.9' arrived at 0.900 s (refused for images, handled 30.0 ms later)" in refused
    assert "calls before it arrived 0.900 s earlier" in refused
    assert "2 runs: 0 failed, 2 with a 429 (at most 0): MISSED" in capsys.readouterr().out


def test_one_demo_of_ten_may_have_a_429_and_none_may_fail() -> None:
    clean, refused, failed = (
        demo_busy.Run(0, 20.0),
        demo_busy.Run(0, 20.0, refused=["x"]),
        demo_busy.Run(2, 20),
    )
    assert demo_busy.verdict([clean] * 9 + [refused])
    assert not demo_busy.verdict([clean] * 8 + [refused] * 2)
    assert not demo_busy.verdict([clean] * 9 + [failed])


@pytest.mark.parametrize("prints", [True, False], ids=["with a document", "without one"])
def test_a_demo_that_fails_is_a_failed_run(make: Setup, tmp_path: Path, prints: bool) -> None:
    make(call(5.0, 200), code=2, prints=prints)
    code, written = benched(tmp_path, 1)
    assert code == 1
    assert written["runs"][0]["exit_code"] == 2


def test_where_caches_cannot_be_dropped_the_benchmark_runs_with_a_note(
    make: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(call(5.0, 200))
    monkeypatch.setattr(demo_busy, "DROP_CACHES", tmp_path / "absent" / "drop_caches")
    code, _ = benched(tmp_path, 1)
    assert code == 0
    assert "cannot be written here" in capsys.readouterr().out
