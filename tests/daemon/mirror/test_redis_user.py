"""The mirror does its work as the Redis user of the workers, and needs no further command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from daemon.settings import SecretUrl
from pixmill.broker.connect import command_client
from tests.daemon.mirror.rig import Followed
from tests.daemon.mirror.server import PostgresServer
from tests.deploy.files import DEPLOY
from tests.servers import RedisServer


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with the shipped users."""
    copy = tmp_path / "users.acl"
    copy.write_bytes((DEPLOY / "redis" / "users.acl").read_bytes())
    server = RedisServer(options=("--aclfile", str(copy)))
    yield server
    server.close()


async def test_the_user_of_the_workers_may_do_all_that_a_mirror_needs(
    guarded: RedisServer, postgres: PostgresServer
) -> None:
    admin: Any = Redis.from_url(guarded.url, retry=Retry(NoBackoff(), 0))
    await admin.execute_command("ACL", "SETUSER", "pixmill-worker", ">planted")
    client = command_client(guarded.url.replace("redis://", "redis://pixmill-worker:planted@"))
    followed = Followed(admin, SecretUrl(postgres.url), client)
    await followed.database.prepare()
    await followed.installation.batch("b1", 3)
    await followed.follow()
    await followed.work()
    await admin.xtrim(followed.keys.events, maxlen=1, approximate=False)
    await followed.follow()
    assert await followed.agrees()
    assert await admin.execute_command("ACL", "LOG") == []
    for part in (followed.database, followed.reader, client, admin):
        await part.aclose()
