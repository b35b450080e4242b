"""The benchmark of the page still runs, end to end, on a small scale."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.page.rig.browser import CHROMIUM

ROOT = Path(__file__).parents[2]
SMALL = ("--tiles=40", "--singles=5", "--rush-s=4")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH; on Debian: apt install chromium")
def test_the_page_is_measured_and_leaves_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "page.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.page", *SMALL, "--json", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    # 1 means a missed bound, which a busy machine may cause; only the benchmark itself judges that.
    assert done.returncode in (0, 1), done.stderr
    figures = json.loads(out.read_text())["figures"]
    assert len(figures) == 8
    assert all(figure["value"] is not None for figure in figures)
