"""A path that cannot be read or written ends a command with a sentence, before anything is sent or waited for."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.files.archive import write_whole
from tests.daemon.cli.conftest import Pixmill

LONG = "x" * 300


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory and a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("directory").mkdir()
    Path("file").write_text("x")
    Path("jobs.csv").write_text("id,prompt\na,a red kettle\n")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("directory", "The configuration file directory cannot be read: Is a directory.\n"),
        ("missing.toml", "The configuration file missing.toml does not exist: check the path.\n"),
        ("file/x.toml", "The configuration file file/x.toml cannot be read: Not a directory.\n"),
        (LONG, f"The configuration file {LONG} cannot be read: File name too long.\n"),
    ],
)
@pytest.mark.parametrize("command", [["config", "check"], ["list"], ["worker"], ["doctor"]])
def test_a_configuration_that_cannot_be_read_is_a_sentence(
    places: None, command: list[str], path: str, says: str
) -> None:
    result = CliRunner().invoke(app, [*command, "--config", path])
    assert (result.exit_code, result.stderr.split("\n", 1)) == (2, [says[:-1], ""])


@pytest.mark.parametrize(
    "command", [["submit", "a red kettle", "--wait"], ["batch", "jobs.csv"], ["watch", "later"]]
)
async def test_a_file_in_place_of_the_directory_stops_a_command_at_once(
    pixmill: Pixmill, places: None, redis: Redis, command: list[str]
) -> None:
    ran = await pixmill(*command, "--out", "file")
    assert ran.code == 2
    assert ran.err.endswith("file: Not a directory.\n")
    assert not await redis.exists("pixmill:jobs"), "nothing was sent"


def test_a_demo_that_could_not_save_its_pictures_makes_none(places: None) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", "file"])
    assert (result.exit_code, result.stderr) == (1, "file: Not a directory.\n")


async def test_an_input_of_any_length_is_looked_for_without_a_fault(pixmill: Pixmill, places: None) -> None:
    ran = await pixmill("submit", "a red kettle", "--input", "file")
    assert (ran.code, "is a file of this machine" in ran.err) == (2, True)
    ran = await pixmill("submit", "a red kettle", "--input", LONG, "--route", "no")
    assert "File name too long" not in ran.err


@pytest.mark.parametrize(("target", "says"), [("directory", "Is a dir"), ("no/a.zip", "No such file")])
def test_an_archive_that_cannot_be_written_is_named_and_not_its_part(
    places: None, target: str, says: str
) -> None:
    with pytest.raises(OSError, match=f"{says}.*'{target}'$"):
        write_whole(Path(target), b"x")
    with pytest.raises(IsADirectoryError):
        write_whole(Path(), b"x")
    assert sorted(path.name for path in Path().iterdir()) == ["directory", "file", "jobs.csv"]


def test_an_archive_is_closed_before_it_gets_its_name(places: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows renames no open file."""
    rename, still_open = Path.replace, list[str]()

    def replace(part: Path, target: Path) -> Path:
        links = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        still_open.extend(link.name for link in links if link.name == part.name)
        return rename(part, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_whole(Path("file"), b"new")
    assert (Path("file").read_bytes(), still_open) == (b"new", [])
