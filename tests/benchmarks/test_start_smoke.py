"""The benchmark of starts still runs, end to end, and writes its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.start import COMMANDS, SERVICES

ROOT = Path(__file__).parents[2]


def test_a_round_measures_every_command_and_every_service(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "start.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.start", "--rounds", "1", "--rest", "0", "--json", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(out.read_text())
    figures = {figure["name"]: figure["value"] for figure in written["summary"]}
    assert all(figures[f"s, `pixmill {name}`"] > 0 for name in COMMANDS)
    assert all(figures[f"s until ready, {name}"] > 0 for name in SERVICES)
    assert {"server", "python", "load_average", "load_average_after"} <= written["environment"].keys()
    assert len(written["runs"]) == 1
