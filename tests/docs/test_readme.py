"""The README is true: the tests run its commands in their order, as a newcomer would."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.docs.pages import ROOT, anchors_of, blocks_of, run
from tests.e2e.processes import Command, SimulatorProcess

BLOCKS = blocks_of("README.md")
COMMANDS = [
    line.split("   #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()
]
TOML = next(text for kind, text in BLOCKS if kind == "toml")
PAGES = [*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")]

# A test of its own below runs these, or they run the tests (`make test`).
ELSEWHERE = {
    "make demo",
    "make test",
    "make setup",
    "pixmill up",
    "make secrets && docker compose up --build",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the checkout, so that what the commands leave behind is not left in it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "daemon").symlink_to(ROOT / "daemon")
    return folder


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Command]:
    command = Command(["up", "--metrics", "127.0.0.1:0"], folder, PIXMILL_GATEWAY__LISTEN="127.0.0.1:0")
    command.wait_for("Ctrl-C stops")
    yield command
    command.stop()


def test_every_command_of_the_readme_is_known_here() -> None:
    ours = re.compile(
        r"pixmill (submit|batch|watch|status|results|list|config|worker)\b|redis-cli |curl |export "
    )
    assert len(COMMANDS) > 12
    assert [line for line in COMMANDS if line not in ELSEWHERE and not ours.match(line)] == []


@pytest.mark.timeout(120)
def test_the_commands_for_a_running_pixmill_work_in_their_order(up: Command, folder: Path) -> None:
    port = up.wait_for("redis://").rsplit(":", 1)[1].split("/")[0]
    for line in COMMANDS:
        if line in ELSEWHERE or line.startswith(("export", "pixmill config", "pixmill worker")):
            continue
        if line.startswith("redis-cli") and not shutil.which("redis-cli"):
            continue
        if line.startswith("curl"):
            line = line.replace("http://localhost:8080", up.wait_for("  http  ").split()[-1])
        done = run(line, folder, PORT=port)
        assert "urn:pixmill:problem" not in done.stdout
        # One row of the shipped CSV is meant to be refused: 3 is "partly failed", as the README says.
        expected = {0, 3} if " spring" in line else {0}
        assert done.returncode in expected, f"{line}\n{done.stdout}{done.stderr}"
    assert list((folder / "pictures").glob("*.png"))
    assert (folder / "spring.zip").stat().st_size > 100_000


def test_the_configuration_of_the_readme_is_valid_and_hides_its_key(tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text(TOML)
    for line in [line for line in COMMANDS if line.startswith("pixmill config")]:
        done = run(line, tmp_path, OPENAI_API_KEY="sk-planted-readme-key")
        assert done.returncode == 0, done.stderr
        assert "sk-planted-readme-key" not in done.stdout + done.stderr
    assert "credentials.openai-main.api_key_env" in done.stdout, "the last one prints every setting"


def test_the_worker_command_makes_a_replica_of_that_configuration(tmp_path: Path, up: Command) -> None:
    simulator = SimulatorProcess(tmp_path, "--plain", "--latency", "0.1")
    (tmp_path / "pixmill.toml").write_text(TOML.replace("https://api.openai.com/v1", simulator.base_url))
    (line,) = [line for line in COMMANDS if line.startswith("pixmill worker")]
    redis_url = up.wait_for("redis://").split()[-1]
    arguments = line.removeprefix("pixmill ").replace('"$REDIS_URL"', redis_url).split()
    worker = Command([*arguments, "--metrics", "127.0.0.1:0"], tmp_path, OPENAI_API_KEY="sk-test")
    try:
        worker.wait_for("replica started")
    finally:
        assert worker.stop() == 0
        simulator.stop()


@pytest.mark.timed
@pytest.mark.timeout(120)
def test_make_demo_shows_what_the_readme_says(tmp_path: Path) -> None:
    demo = Command(["demo", "--page", "--out", str(tmp_path / "out")], tmp_path)
    try:
        page = demo.wait_for("Watch it at").split()[-1]
        assert "<title>Pixmill" in httpx2.get(page, trust_env=False).text
        demo.wait_for("until Ctrl-C", 100)
        assert "40 pictures made, 1 failed" in demo.output
        assert "429 answers, as the provider counted them: 0" in demo.output
        assert (tmp_path / "out" / "contact-sheet.png").exists()
        assert httpx2.get(page, trust_env=False).is_success
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(20) == 0, demo.output
    finally:
        demo.kill()
    assert "@$(BIN)/pixmill demo" in (ROOT / "Makefile").read_text(), "`make demo` is this command"


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("needs docker compose; tests/deploy checks the file without it")
    done = subprocess.run([docker, "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_make_target_and_file_that_the_documentation_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        text = page.read_text("utf-8")
        for target in re.findall(
            r"`?make ([a-z-]+)`?", " ".join(re.findall(r"`[^`\n]+`|^make .*$", text, re.MULTILINE))
        ):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
        for name, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text):
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {name}"
            assert not heading or heading in anchors_of(target), f"{page.name}: {name}#{heading}"
