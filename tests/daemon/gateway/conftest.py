"""A gateway for each test: with a worker (`door`), or without one (`quiet_door`)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer


@pytest.fixture
async def door(redis: Redis, redis_server: RedisServer) -> AsyncIterator[Door]:
    async with open_door(redis, redis_server.url) as opened:
        yield opened


@pytest.fixture
async def quiet_door(redis: Redis, redis_server: RedisServer) -> AsyncIterator[Door]:
    """No worker takes what is accepted."""
    async with open_door(redis, redis_server.url, decide=None) as opened:
        yield opened
