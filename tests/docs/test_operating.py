"""The examples in docs/operating.md are right: each configuration loads, each command works."""

from __future__ import annotations

import asyncio
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis as redis_client
from redis.asyncio import Redis
from typer.testing import CliRunner

from daemon.accounts.routes import build_routes
from daemon.callbacks.signing import Webhooks
from daemon.cli.main import app
from daemon.queue.messages import SCHEMA, NewerSchemaError
from daemon.queue.pauses import read_pauses
from daemon.settings import Settings, load_settings
from pixmill.broker.connect import command_client
from pixmill.contract import Callback, Job
from tests.daemon.harness import Installation
from tests.docs.pages import run
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
PRODUCING = (ROOT / "docs" / "producing.md").read_text()
TEXT = (ROOT / "docs" / "operating.md").read_text()
BLOCKS = re.findall(r"(?:^    .*\n|^\n)+", TEXT, re.MULTILINE)
[ACCOUNTS] = [block for block in BLOCKS if "[credentials." in block]
[WEBHOOKS] = [block for block in BLOCKS if "[webhooks." in block]
[PAUSES] = [block for block in BLOCKS if "pixmill pause" in block]


def _lines(mark: str) -> list[str]:
    """The one block with this text, line by line."""
    [block] = [block for block in BLOCKS if mark in block]
    return [line.strip() for line in block.splitlines() if line.strip()]


def test_the_documented_accounts_load_and_can_be_called(tmp_path: Path) -> None:
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


def test_the_documented_equals_and_spares_load(tmp_path: Path) -> None:
    (shared,) = [block for block in BLOCKS if "any = [" in block]
    missing = """
[credentials.openai-main]
provider = "openai"
[credentials.openai-second]
provider = "openai"
[quotas]
openai-main = {images = "20/min"}
openai-second = {images = "20/min"}
[routes.zimage]
credential = "openai-main"
model = "m"
"""
    (tmp_path / "pixmill.toml").write_text(shared + missing)
    routes = load_settings(tmp_path / "pixmill.toml", environ={}).settings.routes
    assert (routes["pictures"].any, routes["first"].fallback) == (["first", "second"], ["zimage"])


def test_the_documented_numbers_are_the_defaults() -> None:
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `?(\d\w*)`? \|", TEXT, re.MULTILINE)
    assert ("worker", "max_backlog_per_tenant", "100000") in rows
    for section, name, text in rows:
        default = getattr(Settings(), section)
        assert type(default).model_validate({name: text}) == default, f"{section}.{name}"


def test_the_end_of_an_older_replica_is_quoted_as_it_is() -> None:
    assert f'"{NewerSchemaError(SCHEMA + 1)}"' in " ".join(TEXT.split())


@pytest.mark.parametrize("mark", ["redis+sentinel://sentinel-1", "redis+cluster://node-1"])
def test_the_documented_redis_forms_can_be_configured(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "pixmill.toml"
    path.write_text("\n".join(_lines(mark)))
    settings = load_settings(path, environ={}).settings.redis
    assert settings.url is not None
    command_client(settings.url.reveal(), settings.prefix)


def test_the_documented_bound_of_a_failover_can_be_set(redis_server: RedisServer) -> None:
    client = redis_client.Redis(port=redis_server.port)
    for line in _lines("min-replicas-to-write"):
        assert client.config_set(*line.split())
    client.config_set("min-replicas-to-write", 0)
    client.close()


def test_the_documented_commands_set_the_users_passwords(tmp_path: Path) -> None:
    copy = tmp_path / "users.acl"
    copy.write_bytes((ROOT / "deploy" / "redis" / "users.acl").read_bytes())
    server = RedisServer(options=("--aclfile", str(copy)))
    try:
        client: Any = redis_client.Redis(port=server.port)
        for line in _lines("ACL SETUSER"):
            assert client.execute_command(*line.split())
        client.close()
        with redis_client.Redis(
            port=server.port, username="pixmill-worker", password="the-password-of-workers"
        ) as worker:
            assert worker.ping()
        assert "pixmill-producer" in copy.read_text()
    finally:
        server.close()


def test_the_documented_command_makes_a_webhook_secret(tmp_path: Path) -> None:
    (command,) = re.findall(r"`(echo whsec_\S+ rand -base64 \d+\))`", TEXT)
    made = run(command, tmp_path)
    assert made.returncode == 0, made.stderr
    path = tmp_path / "pixmill.toml"
    path.write_text(WEBHOOKS)
    environ = {"HOOK_SECRET": made.stdout}
    webhooks = Webhooks.configured(load_settings(path, environ=environ).settings, environ)
    webhooks.check(Callback(url="https://shop.example/hook", events=None, secret=None), tenant="t", ident="j")


def test_the_documented_job_with_a_callback_is_accepted() -> None:
    (text,) = re.findall(r'^    (\{"id": .*"callback": .*\})$', PRODUCING, re.MULTILINE)
    job = Job.model_validate(orjson.loads(text))
    assert job.callback is not None
    Webhooks({"shop": (b"k" * 24,)}, ()).check(job.callback, tenant=job.tenant, ident=job.id)


async def test_the_commands_that_pause_and_resume_work_in_their_order(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    installation = Installation(redis)
    await installation.batch("autumn-skus", 1)
    commands = [line.strip() for line in PAUSES.splitlines() if line.strip()]
    assert len(commands) == 6
    for command in commands:
        arguments, environ = shlex.split(command)[1:], {"PIXMILL_REDIS__URL": redis_server.url}
        done = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environ)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        assert "nothing" not in done.stdout
        if command == commands[2]:
            assert {*await read_pauses(redis, installation.keys)} == {"fleet", "route:slides"}
    assert await read_pauses(redis, installation.keys) == {}
    assert "paused" not in await installation.group("default/autumn-skus")
