"""Fixtures that every part shares: a real Valkey for each pytest worker, empty at the start of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.servers import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client whose server is empty; commands are sent once, never silently again."""
    client = Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0))
    await client.flushall()
    await client.script_flush()
    yield client
    await client.aclose()
