"""Runs a benchmark on a small scale, as its command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_small(module: str, out: Path, *options: str, timeout_s: float = 110) -> tuple[str, dict[str, Any]]:
    """Its printed text, and the file that it wrote below `out`.

    Exit code 1 means a missed bound, which a busy machine may cause; only the benchmark itself judges that.
    """
    path = out / "deeper" / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *options, "--json", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert path.exists(), done.stdout + done.stderr
    return done.stdout, json.loads(path.read_text())
