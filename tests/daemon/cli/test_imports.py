"""A light command, the client and a worker import only what they need: the rest is time and memory of each start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.daemon.harness import Installation
from tests.daemon.live import made

ROOT = Path(__file__).parents[3]
# The log, the store and its retries, pictures, providers, servers and metrics; help pages; files of batches.
HEAVY = (
    "structlog",
    "rich",
    "asyncpg",
    "obstore",
    "tenacity",
    "PIL",
    "httpx2",
    "starlette",
    "uvicorn",
    "fastapi",
    "prometheus_client",
    "pydantic_settings",
    "daemon.queue.queue",
    "pixmill.contract.event_data",
    "daemon.files.batch_file",
    "daemon.service",
    "providers.registry",
    "providers.simulator",
)
REPORT = """
import atexit, sys
atexit.register(lambda: print("loaded:", *sys.modules))
"""


def loaded(program: str, place: Path | None = None, **environ: str) -> set[str]:
    """The modules that a process has at its end."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT + program],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded: ")[2].split())


@pytest.mark.parametrize(
    "words",
    [
        ("status", "b1"),
        ("list",),
        ("explain", "b1"),
        ("quotas",),
        ("dead", "list"),
        ("cancel", "b1"),
        ("retry", "b1", "--held"),
        ("pause",),
    ],
)
async def test_a_light_command_imports_nothing_heavy(
    redis: Redis, environment: dict[str, str], tmp_path: Path, words: Sequence[str]
) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 4)
    for item in await installation.claim(4):
        await installation.queue.settle(item, made(item))
    program = f"sys.argv = ['pixmill', *{words!r}]\nfrom daemon.cli.main import run\nrun()"
    assert not loaded(program, tmp_path, **environment) & set(HEAVY)


def test_the_client_imports_nothing_heavy() -> None:
    assert not loaded("import pixmill.client") & {*HEAVY, "typer"}


def test_a_worker_has_no_simulator_and_no_rich() -> None:
    program = (
        "from daemon.cli.importing import import_structlog\nimport_structlog()\n"
        "import daemon.cli.commands.serve, daemon.service, uvloop"
    )
    assert not loaded(program) & {
        "rich",
        "pygments",
        "asyncpg",
        "providers.simulator",
        "fastapi",
        "pydantic_settings",
        # Traces need the API alone, as long as nothing turns them on. (The Redis client loads the SDK's metrics.)
        "opentelemetry.sdk.trace",
        "opentelemetry.instrumentation",
        "opentelemetry.exporter",
        "daemon.telemetry.span_export",
    }


def test_a_command_after_it_can_still_use_rich() -> None:
    program = (
        "from daemon.cli.importing import import_structlog\nimport_structlog()\n"
        "import rich.console\nassert rich.console.Console"
    )
    assert "structlog" in loaded(program)
