"""The pages for producers are true: each one's blocks run as a program against `pixmill up`, as a producer may.

The page for Node needs a package of npm, so tests/sdks runs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.pages import BIN
from tests.docs.producers import Fleet, check, fleet_in

SHELL = ("bash", "-euo", "pipefail", "-c")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_in(tmp_path_factory.mktemp("producers")) as fleet:
        yield fleet


def pictures(folder: Path, *names: str) -> list[tuple[int, int]]:
    return [Image.open(folder / name).size for name in names]


@pytest.mark.skipif(
    not (shutil.which("redis-cli") and shutil.which("curl")), reason="needs redis-cli and curl"
)
def test_the_lines_for_redis_cli_work(fleet: Fleet) -> None:
    check("redis-cli.md", "sh", fleet, SHELL)
    assert pictures(fleet.folder, "pot.png") == [(1024, 1024)]


def test_the_lines_for_python_work_without_our_package(fleet: Fleet) -> None:
    check("python.md", "python", fleet, (str(BIN / "python"), "-c"))
    assert pictures(fleet.folder, "jug.png") == [(1024, 1024)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl on PATH")
def test_the_lines_for_curl_work(fleet: Fleet) -> None:
    check("curl.md", "sh", fleet, SHELL)
    assert pictures(fleet.folder, "bowl.png", "pan.png") == [(1024, 1024)] * 2
