"""The wheel of `pixmill` beside python-daemon, whose module has the name of a module of pixmill-daemon: both run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.daemon.live import working
from tests.sdks.environments import must_be_there, python_of
from tests.servers import RedisServer

PACKAGE = Path(__file__).parents[2] / "packages" / "pixmill"
PROGRAM = """
import os, sys
from importlib.metadata import packages_distributions, version
import daemon, pixmill

print(daemon.__file__.split("/")[-2:], version("pixmill"), packages_distributions()["pixmill"])
quiet = daemon.DaemonContext(detach_process=False, working_directory=os.getcwd(), stdout=sys.stdout, stderr=sys.stderr)
with quiet, pixmill.SyncClient(os.environ["PIXMILL_REDIS__URL"]) as client:
    print(quiet.is_open, client.generate("a kettle").state)
try:
    pixmill.SyncClient.local()
except pixmill.NotInstalledError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return python_of("beside")
    except (FileNotFoundError, RuntimeError) as error:
        if must_be_there():
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def wheel(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build: list[str | Path] = [python, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=PACKAGE, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_no_module_but_its_own(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"pixmill", "pixmill-0.1.0.dist-info"}
    assert "pixmill/py.typed" in names


async def test_both_run_in_one_program(
    python: Path, wheel: Path, redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as files:  # an installation of a wheel without scripts is its files
        files.extractall(tmp_path / "installed")
    async with working(redis):
        installed = {"PYTHONPATH": str(tmp_path / "installed"), "PIXMILL_REDIS__URL": redis_server.url}
        done = await asyncio.to_thread(_run, python, tmp_path, {"PATH": os.environ["PATH"], **installed})
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "['daemon', '__init__.py'] 0.1.0 ['pixmill']"
    assert second == "True succeeded"
    assert "pip install pixmill-daemon" in third


def _run(python: Path, folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-c", PROGRAM]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
