"""The page for producers in Node works with the package that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.docs.producers import check, fleet_in
from tests.sdks.environments import must_be_there, node_modules


def test_the_lines_for_node_work(tmp_path: Path) -> None:
    try:
        modules = node_modules()
    except (FileNotFoundError, RuntimeError) as error:
        if must_be_there():
            pytest.fail(str(error))
        pytest.skip(str(error))
    (tmp_path / "node_modules").symlink_to(modules)
    with fleet_in(tmp_path) as fleet:
        check("node.md", "js", fleet, ("node", "--input-type=module", "--eval"))
    assert Image.open(tmp_path / "mug.png").size == (1024, 1024)
