"""A gateway with keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.callers.keys import made
from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
async def locked(redis: Redis, redis_server: RedisServer, keys_file: Path) -> AsyncIterator[Door]:
    """A gateway with keys."""
    made(keys_file, "first", "read")
    async with open_door(redis, redis_server.url, keys_file=keys_file) as door:
        yield door
