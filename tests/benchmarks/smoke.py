"""Runs a benchmark on a small scale, as its command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MET = (0,)
# 1 means a missed bound, which a busy machine may cause; only the benchmark itself judges that.
MET_OR_MISSED = (0, 1)


def run_small(
    module: str, out: Path, *options: str, exit_codes: tuple[int, ...] = MET_OR_MISSED, timeout_s: float = 110
) -> tuple[str, dict[str, Any]]:
    """Its printed text, and the file that it wrote below `out`."""
    path = out / "deeper" / "figures.json"
    printed = run_printing(module, *options, "--json", str(path), exit_codes=exit_codes, timeout_s=timeout_s)
    assert path.exists(), printed
    return printed, json.loads(path.read_text())


def run_printing(module: str, *options: str, exit_codes: tuple[int, ...], timeout_s: float) -> str:
    """Its printed text."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode in exit_codes, done.stdout + done.stderr
    return done.stdout
