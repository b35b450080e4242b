"""A gateway with a worker that draws what it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.openai.studio import Studio
from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer


@pytest.fixture
def studio() -> Studio:
    return Studio()


@pytest.fixture
async def shop(redis: Redis, redis_server: RedisServer, studio: Studio) -> AsyncIterator[Door]:
    async with open_door(redis, redis_server.url, decide=studio.decide) as door:
        studio.door = door
        yield door
        studio.go_on.set()
