"""docs/upgrading.md is right: its commands work, and it quotes what an older replica prints."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_client
from redis.asyncio import Redis

from daemon.queue.messages import SCHEMA, NewerSchemaError
from tests.conftest import REDIS
from tests.daemon.harness import Installation
from tests.docs.pages import ROOT, run
from tests.e2e.processes import wait_until
from tests.servers import RedisServer

TEXT = (ROOT / "docs" / "upgrading.md").read_text("utf-8")
COMMANDS = [line.strip() for line in re.findall(r"^ {7}\S.*$", TEXT, re.MULTILINE)]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis with an append-only file."""
    started = RedisServer(persistent=True)
    yield started
    started.close()


def test_the_end_of_an_older_replica_is_quoted_as_it_is() -> None:
    assert f'"{NewerSchemaError(SCHEMA + 1)}"' in " ".join(TEXT.split())


@pytest.mark.skipif(REDIS is None, reason="needs redis-cli")
async def test_the_schema_is_found_where_the_page_looks_for_it(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    await Installation(redis).queue.install(records_s=86400, failed_s=604800, starts=True)
    (command,) = (each for each in COMMANDS if each.endswith("schema"))
    done = run(command, tmp_path, REDIS_URL=redis_server.url)
    assert done.stdout.strip() == str(SCHEMA)
    assert f"now {SCHEMA}. Most versions keep it" in TEXT


@pytest.mark.skipif(REDIS is None, reason="needs redis-cli")
def test_the_copy_of_redis_comes_back_as_the_page_says(server: RedisServer, tmp_path: Path) -> None:
    def shown(last_words: str) -> str:
        (command,) = {each for each in COMMANDS if each.endswith(last_words)}
        return run(command, tmp_path, REDIS_URL=server.url).stdout

    with redis_client.Redis(port=server.port) as client:
        client.set("kept", 1)
        shown("BGSAVE")
        wait_until(
            lambda: "rdb_bgsave_in_progress:0" in shown("INFO persistence"), 10, lambda: "it still saves"
        )
        assert "rdb_last_bgsave_status:ok" in shown("INFO persistence")
        copy = Path(shown("GET dir").split()[-1]) / shown("GET dbfilename").split()[-1]
        client.delete("kept")
        server.kill()
        shutil.rmtree(server.directory / "appendonlydir")
        assert copy.parent == server.directory
        server.persistent = False
        server.start()
        shown("appendonly yes")
        whole = ("aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0", "aof_last_bgrewrite_status:ok")
        wait_until(
            lambda: all(each in shown("INFO persistence") for each in whole), 10, lambda: "it still writes"
        )
        server.kill()
        copy.unlink()
        server.persistent = True
        server.start()
        assert client.get("kept") == b"1"


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
