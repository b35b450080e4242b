"""`pixmill mirror` as a process: kills, stops, outages, and what its log shows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.settings import SecretUrl
from tests.daemon.harness import eventually
from tests.daemon.mirror.rig import Followed
from tests.daemon.mirror.server import PASSWORD, PostgresServer
from tests.e2e.processes import Command
from tests.servers import RedisServer

PATIENCE_S = 60.0


@pytest.fixture
def environment(redis_server: RedisServer, postgres: PostgresServer) -> Mapping[str, str]:
    return {"PIXMILL_REDIS__URL": redis_server.url, "PIXMILL_MIRROR__POSTGRES": postgres.url}


async def test_a_mirror_that_is_killed_and_started_again_misses_no_row(
    followed: Followed, environment: Mapping[str, str], tmp_path: Path
) -> None:
    for number in range(3):
        before = len((await followed.written())[0])
        killed = Command(["mirror"], tmp_path, **environment)
        await asyncio.to_thread(killed.wait_for, "mirror started")
        await followed.installation.batch(f"b{number}", 150)
        working = asyncio.create_task(followed.work())

        async def has_begun(before: int = before) -> bool:
            return len((await followed.written())[0]) > before

        await eventually(has_begun, PATIENCE_S)
        killed.kill()
        await working
        await followed.installation.batch(f"late{number}", 5)
        assert not await followed.is_done()
    last = Command(["mirror"], tmp_path, **environment)
    try:
        await eventually(followed.agrees, PATIENCE_S)
        await eventually(followed.is_done, PATIENCE_S)
    finally:
        assert await asyncio.to_thread(last.stop) == 0
    assert len((await followed.written())[0]) == 465


async def test_without_postgres_it_waits_says_so_once_and_still_ends_at_a_signal(
    followed: Followed, postgres: PostgresServer, environment: Mapping[str, str], tmp_path: Path
) -> None:
    await followed.installation.batch("b1", 2)
    postgres.stop()
    try:
        mirror = Command(["mirror", "--log-level", "debug"], tmp_path, **environment)
        await asyncio.to_thread(mirror.wait_for, "postgres does not serve us; waiting")
        assert await asyncio.to_thread(mirror.stop) == 0
    finally:
        postgres.start()
    assert mirror.output.count("postgres does not serve us") == 1
    assert PASSWORD not in mirror.output
    assert quote(PASSWORD, safe="") not in mirror.output


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    server = RedisServer(persistent=True, options=("--appendfsync", "always"))
    yield server
    server.close()


async def test_without_redis_it_waits_says_so_once_and_goes_on_later(
    own_redis: RedisServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    redis = Redis.from_url(own_redis.url, retry=Retry(NoBackoff(), 0))
    followed = Followed(redis, SecretUrl(postgres.url))
    mirror = Command(["mirror", "--redis-url", own_redis.url, "--postgres", postgres.url], tmp_path)
    try:
        await asyncio.to_thread(mirror.wait_for, "mirror started")
        await followed.installation.batch("b1", 3)
        await eventually(followed.agrees, PATIENCE_S)
        own_redis.kill()
        await asyncio.to_thread(mirror.wait_for, "redis does not serve us; waiting")
        own_redis.start()
        await redis.connection_pool.disconnect()
        await followed.installation.batch("b2", 3)
        await followed.work()
        await eventually(followed.agrees, PATIENCE_S)
    finally:
        assert await asyncio.to_thread(mirror.stop) == 0
        await followed.reader.aclose()
        await redis.aclose()
    assert mirror.output.count("redis does not serve us") == 1


def test_without_a_database_the_command_names_the_setting(redis_server: RedisServer) -> None:
    done = CliRunner().invoke(app, ["mirror", "--redis-url", redis_server.url])
    assert done.exit_code == 2
    assert "PIXMILL_MIRROR__POSTGRES" in done.stderr


def test_without_the_extra_the_command_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("asyncpg", "daemon.mirror"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    done = CliRunner().invoke(app, ["mirror", "--postgres", "postgresql://pixmill@localhost/pixmill"])
    assert done.exit_code == 2
    assert "pip install 'pixmill-daemon[sql]'" in done.stderr
