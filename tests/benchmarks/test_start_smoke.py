"""The benchmark of starts still runs, end to end, and writes its figures."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.start import COMMANDS, SERVICES
from tests.benchmarks.smoke import MET, run_small


def test_a_round_measures_every_command_and_every_service(tmp_path: Path) -> None:
    _, written = run_small(
        "start", tmp_path, "--rounds", "1", "--rest", "0", "--python", sys.executable, exit_codes=MET
    )
    figures = {figure["name"]: figure["value"] for figure in written["summary"]}
    assert all(figures[f"s, `pixmill {name}`"] > 0 for name in COMMANDS)
    assert all(figures[f"s until ready, {name}"] > 0 for name in SERVICES)
    assert {"server", "python", "load_average", "load_average_after"} <= written["environment"].keys()
    assert len(written["runs"]) == 1
