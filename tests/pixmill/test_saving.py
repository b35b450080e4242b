"""A picture goes where its caller means: to a new file, and nowhere else."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import pytest

from pixmill import OutputError
from pixmill.api.saving import destination, write_new


@pytest.mark.parametrize(
    "path",
    [
        "../a.png",
        "out/../../a.png",
        "/tmp/../a.png",
        "link/a.png",
        "",
        "a\0.png",
        "loop/a.png",
        "a\ud800.png",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "link").symlink_to(tmp_path)
    (base / "loop").symlink_to(base / "loop")
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


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    opened = Path.open

    def full_disk(given: Path, mode: str) -> IO[bytes]:
        """This device takes what is written, and has no room for it when the file is closed."""
        opened(given, mode).close()
        return opened(Path("/dev/full"), "wb")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full_disk)
        with pytest.raises(OutputError, match="No space left"):
            write_new(path, b"one")
    assert list(tmp_path.iterdir()) == []
    write_new(path, b"one")
    assert path.read_bytes() == b"one"


def test_a_file_system_without_links_has_new_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_new(tmp_path / "a.png", b"one")
    with pytest.raises(OutputError, match="exists already"):
        write_new(tmp_path / "a.png", b"two")
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
