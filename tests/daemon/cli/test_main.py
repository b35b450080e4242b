"""The table of commands: help appears at once, and every command and its example work as written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli.main import COMMANDS, app
from providers.simulator.faults import FaultKind
from tests.daemon.cli.conftest import Pixmill

NAMES = [listed.name for row in COMMANDS.values() for listed in row]
IMPORTED_LATE = (
    "redis",
    "pydantic",
    "PIL",
    "obstore",
    "starlette",
    "uvicorn",
    "httpx2",
    "daemon.queue.queue",
)


def test_help_imports_nothing_heavy() -> None:
    """Slow imports are left to the commands that need them."""
    program = (
        "import sys\nfrom daemon.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('late:', [name for name in {IMPORTED_LATE!r} if name in sys.modules])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "late: []" in done.stdout
    assert time.monotonic() - began < 5  # 0.3 s on an idle machine


def test_help_lists_every_command_once() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert len(set(NAMES)) == len(NAMES)
    for name in NAMES:
        assert re.search(rf"│ {name} ", result.stdout), name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "simulator"])  # has a parser of its own
def test_every_command_has_a_help_of_its_own(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert f"{name} [OPTIONS]" in result.stdout


def test_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"pixmill \d+\.\d+\.\d+\S*\n", result.stdout)


@pytest.mark.parametrize("words", ["--version", "--help", "submit --help", "schema job"])
def test_a_reader_that_has_left_ends_what_is_not_about_work_as_well(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "daemon", *words.split()]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_traceback_of_a_crash_holds_nothing_that_a_terminal_obeys() -> None:
    program = (
        "from daemon.cli import main\n"
        "def crash(**_): raise RuntimeError('\\x1b]52;c;aGk=\\x07 Bearer sk-planted-4f9a8b7c6d5e4f3a2b1c')\n"
        "main.app = crash\nmain.run()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "RuntimeError: \\x1b]52;c;aGk=\\x07" in done.stderr
    assert "sk-planted" not in done.stderr.split("RuntimeError:")[-1]


def test_a_misspelt_command_is_a_usage_error_with_the_right_name() -> None:
    result = CliRunner().invoke(app, ["sumbit", "x"])
    assert result.exit_code == 2
    assert "submit" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["up", "--log-level", "loud"], "'loud' is not one of debug, info, warning, error."),
        (["worker", "--log-level", "INFO"], "'INFO' is not one of debug, info, warning, error."),
        (["schema", "foo"], "'foo' is not one of job, batch, event."),
    ],
)
def test_an_unknown_choice_is_a_usage_error_in_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    shown = " ".join(result.stderr.replace("│", " ").split())
    assert sentence in shown
    assert "Value error" not in shown


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
def test_a_terminal_without_chinese_gets_escapes(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "skus.csv").write_text("id,prompt\nk1,红水壶 × café 🫖\n", encoding="utf-8")

    def run(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "daemon", "batch", "skus.csv", "--dry-run", *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            check=True,
        )
        return done.stdout.decode(encoding)

    assert ("红水壶" if encoding == "utf-8" else "\\u7ea2\\u6c34\\u58f6") in run()
    assert json.loads(run("--json"))["first"] == [{"id": "k1", "prompt": "红水壶 × café 🫖"}]


@pytest.mark.parametrize(
    ("typed", "offered"), [("pixmill qu", "quotas"), ("pixmill batch --ski", "--skip-empty")]
)
def test_a_shell_can_complete_commands_and_options(typed: str, offered: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from daemon.cli.main import run; run()"],
        env={
            **os.environ,
            "_PIXMILL_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert offered in done.stdout.split()


def test_up_where_its_data_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / ".pixmill").write_text("in the way, as a directory without rights would be")
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "up", "--metrics", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        f"{tmp_path}/.pixmill/redis: Not a directory. Start it in a directory that you may write to"
        in done.stderr
    )


def test_the_simulators_help_names_its_faults() -> None:
    shown = CliRunner().invoke(app, ["simulator", "--help"])
    assert shown.exit_code == 0
    assert all(kind in shown.stdout for kind in FaultKind)


def test_python_m_daemon_is_pixmill() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("pixmill ")


async def test_an_error_about_a_name_with_a_line_separator_is_one_line(pixmill: Pixmill) -> None:
    ran = await pixmill("status", "a\u2028error: b")
    assert ran.err.count("\n") == 1
    assert '"a\\u2028error: b"' in ran.err
