"""The configurations that operators are shown are right: each of them loads and makes its providers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import redis

from daemon.connections import command_client
from daemon.routes import build_routes
from daemon.settings import load_settings
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operating.md").read_text()
BLOCKS = re.findall(r"(?:^    .*\n|^\n)+", TEXT, re.MULTILINE)
[ACCOUNTS] = [block for block in BLOCKS if "[credentials." in block]


def _lines(mark: str) -> list[str]:
    """The one block with this text, line by line."""
    [block] = [block for block in BLOCKS if mark in block]
    return [line.strip() for line in block.splitlines() if line.strip()]


def test_the_accounts_that_are_shown_load_and_can_be_called(tmp_path: Path) -> None:
    shown = tomllib.loads(ACCOUNTS)
    path = tmp_path / "pixmill.toml"
    routes = "".join(
        f'\n[routes.{name}-again]\ncredential = "{name}"\nmodel = "m"\n' for name in shown["credentials"]
    )
    path.write_text(ACCOUNTS + routes)
    variables = re.findall(r'_env = "(\w+)"', ACCOUNTS)
    environ = dict.fromkeys(variables, "planted")
    made = build_routes(load_settings(path, environ=environ).settings, environ)
    assert {route.provider.name for route in made.values()} == {"openrouter", "hunyuan", "zimage"}


@pytest.mark.parametrize("mark", ["redis+sentinel://sentinel-1", "redis+cluster://node-1"])
def test_a_redis_that_is_shown_can_be_configured(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "pixmill.toml"
    path.write_text("\n".join(_lines(mark)))
    settings = load_settings(path, environ={}).settings.redis
    assert settings.url is not None
    command_client(settings.url.reveal(), settings.prefix)


def test_the_bound_of_a_failover_is_set_as_it_is_shown(redis_server: RedisServer) -> None:
    client = redis.Redis(port=redis_server.port)
    for line in _lines("min-replicas-to-write"):
        assert client.config_set(*line.split())
    client.config_set("min-replicas-to-write", 0)
    client.close()


def test_the_users_get_their_passwords_as_it_is_shown(tmp_path: Path) -> None:
    copy = tmp_path / "users.acl"
    copy.write_bytes((ROOT / "deploy" / "redis" / "users.acl").read_bytes())
    server = RedisServer(options=("--aclfile", str(copy)))
    try:
        client: Any = redis.Redis(port=server.port)
        for line in _lines("ACL SETUSER"):
            assert client.execute_command(*line.split())
        client.close()
        with redis.Redis(
            port=server.port, username="pixmill-worker", password="the-password-of-workers"
        ) as worker:
            assert worker.ping()
        assert "pixmill-producer" in copy.read_text()
    finally:
        server.close()
