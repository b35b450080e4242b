"""The lines of docs/http.md for OpenAI's clients work with the clients themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.pages import blocks_of, run
from tests.e2e.processes import Command
from tests.sdks.environments import must_be_there, python_of


@pytest.fixture
def up(tmp_path: Path) -> Iterator[str]:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "kettle.png")
    command = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path, PIXMILL_GATEWAY__LISTEN="127.0.0.1:0")
    command.wait_for("Ctrl-C stops")
    yield command.wait_for("  http  ").split()[-1]
    command.stop()


@pytest.mark.parametrize(
    ("kind", "environment", "pictures"),
    [("openai", "openai2", 2), ("openai", "openai3", 2), ("litellm", "litellm", 1)],
)
def test_the_lines_of_the_page_make_pictures(
    up: str, tmp_path: Path, kind: str, environment: str, pictures: int
) -> None:
    try:
        python = str(python_of(environment))
    except (FileNotFoundError, RuntimeError) as error:
        if must_be_there():
            pytest.fail(str(error))
        pytest.skip(str(error))
    (block,) = [block for block in blocks_of("docs/http.md") if block.kind == f"python {kind}"]
    done = run(block.text.replace("http://localhost:8080", up), tmp_path, (python, "-c"))
    assert done.returncode == 0, done.stderr
    sizes = [int(size) for size in done.stdout.split()]
    assert len(sizes) == pictures
    assert min(sizes) > 1000
