"""A picture goes where its caller means: to a new file, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixmill import OutputError
from pixmill.api.saving import destination, write_new


@pytest.mark.parametrize(
    "path", ["../a.png", "out/../../a.png", "/tmp/../a.png", "link/a.png", "", "a\0.png"]
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "link").symlink_to(tmp_path)
    with pytest.raises(OutputError):
        destination(path, base)


def test_a_path_below_the_folder_and_a_whole_one_are_meant(tmp_path: Path) -> None:
    assert destination("out/a.png", tmp_path) == tmp_path / "out" / "a.png"
    assert destination(str(tmp_path / "a.png"), Path("/elsewhere")) == tmp_path / "a.png"


def test_a_file_is_made_once_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.png"
    write_new(path, b"one")
    write_new(path, b"one")
    with pytest.raises(OutputError, match="exists already"):
        write_new(path, b"two")
    (tmp_path / "dangling").symlink_to(tmp_path / "target")
    with pytest.raises(OutputError, match="exists already"):
        write_new(tmp_path / "dangling", b"one")
    assert (path.read_bytes(), (tmp_path / "target").exists()) == (b"one", False)
    with pytest.raises(OutputError, match="cannot be written"):
        write_new(path / "below", b"one")
