"""The benchmark of the page still runs, end to end, on a small scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.smoke import run_small
from tests.page.rig.browser import CHROMIUM

SMALL = ("--tiles=40", "--singles=5", "--rush-s=4")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH; on Debian: apt install chromium")
def test_the_page_is_measured_and_leaves_its_figures(tmp_path: Path) -> None:
    _, document = run_small("page", tmp_path, *SMALL)
    figures = document["figures"]
    assert len(figures) == 8
    assert all(figure["value"] is not None for figure in figures)
