"""Runs `pixmill` inside the test process, on the test's server and a store of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from redis.asyncio import Redis
from typer.testing import CliRunner

from daemon.cli.main import app
from tests.servers import RedisServer


class Ran(NamedTuple):
    """The output of a call, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; fails when there is anything else."""
        return json.loads(self.out)


Pixmill = Callable[..., Awaitable[Ran]]


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Keep the log of a test's worker out of the output: it runs in the same process as the command."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def environment(
    redis_server: RedisServer, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """An empty working directory, and the server and store by environment."""
    monkeypatch.chdir(tmp_path)
    return {"PIXMILL_REDIS__URL": redis_server.url, "PIXMILL_STORAGE__URL": storage}


@pytest.fixture
def pixmill(redis: Redis, environment: dict[str, str]) -> Pixmill:
    async def run(*args: str, stdin: str | None = None, **env: str | None) -> Ran:
        # In a thread, since a command has an event loop of its own.
        result = await asyncio.to_thread(
            CliRunner().invoke, app, list(args), input=stdin, env={**environment, **env}
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run
