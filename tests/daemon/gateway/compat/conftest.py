"""A gateway with the routes of the seeds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.compat.decks import Room
from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
async def door(redis: Redis, redis_server: RedisServer, room: Room) -> AsyncIterator[Door]:
    async with open_door(
        redis, redis_server.url, decide=room.decide, routes=("default", "slides", "studio")
    ) as opened:
        yield opened
        room.go_on.set()
