"""A PostgreSQL for each pytest worker, whose tables go before each test, and a mirror that the test drives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from daemon.settings import SecretUrl
from tests.daemon.mirror.rig import Followed
from tests.daemon.mirror.server import PostgresServer, has_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    if not has_postgres():
        pytest.skip("needs initdb and postgres (Debian's package postgresql)")
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> PostgresServer:
    postgres_server.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return postgres_server


@pytest.fixture
async def followed(redis: Redis, postgres: PostgresServer) -> AsyncIterator[Followed]:
    """An installation with a mirror that goes when the test says so."""
    followed = Followed(redis, SecretUrl(postgres.url))
    await followed.database.prepare()
    yield followed
    await followed.database.aclose()
    await followed.reader.aclose()
