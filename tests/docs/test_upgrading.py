"""docs/upgrading.md is right: its commands work, and it quotes what an older replica prints."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.queue.messages import SCHEMA, NewerSchemaError
from tests.conftest import REDIS
from tests.daemon.harness import Installation
from tests.docs.pages import ROOT, run
from tests.servers import RedisServer

TEXT = (ROOT / "docs" / "upgrading.md").read_text("utf-8")
COMMANDS = [line.strip() for line in re.findall(r"^ {7}\S.*$", TEXT, re.MULTILINE)]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def test_the_end_of_an_older_replica_is_quoted_as_it_is() -> None:
    assert f'"{NewerSchemaError(SCHEMA + 1)}"' in " ".join(TEXT.split())


@pytest.mark.skipif(REDIS is None, reason="needs redis-cli")
async def test_the_schema_is_found_where_the_page_looks_for_it(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    await Installation(redis).queue.install(records_s=86400, failed_s=604800, starts=True)
    (command,) = (each for each in COMMANDS if each.startswith("redis-cli"))
    done = run(command.replace("redis-cli", f"redis-cli -p {redis_server.port}"), tmp_path)
    assert done.stdout.strip() == str(SCHEMA)
    assert f"now {SCHEMA}. Most versions keep it" in TEXT


def test_the_commands_of_pixmill_work(redis_server: RedisServer, tmp_path: Path) -> None:
    environ = {"PIXMILL_REDIS__URL": redis_server.url, "PIXMILL_CONFIG": ""}
    (tmp_path / "pixmill.toml").write_text("")
    shown = [each for each in COMMANDS if each.startswith("pixmill")]
    assert shown == ["pixmill --version", "pixmill config check", "pixmill doctor"]
    done = [run(command, tmp_path, **environ) for command in shown]
    assert done[0].stdout.strip() == f"pixmill {VERSION}"
    assert done[1].returncode == 0
    assert done[2].stdout.startswith(("ok", "warn"))


def test_the_release_notes_are_of_this_version() -> None:
    assert re.search(rf"^## {re.escape(VERSION)}\b", CHANGELOG, re.MULTILINE)
