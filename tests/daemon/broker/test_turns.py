"""Calls beyond the connections of a pool wait for their turn."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from pixmill.broker import turns
from pixmill.broker.connect import command_client
from tests.servers import RedisServer, free_port


async def test_more_calls_than_connections_are_all_answered(redis: Redis, redis_server: RedisServer) -> None:
    before = (await redis.info("clients"))["connected_clients"]
    client = command_client(redis_server.url, in_turn=3)
    await asyncio.gather(*(client.incr("pixmill:n") for _ in range(50)))
    assert await redis.get("pixmill:n") == b"50"
    assert (await redis.info("clients"))["connected_clients"] <= before + 3
    await client.aclose()


async def test_a_turn_that_does_not_come_is_a_lost_connection(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.05)
    client = command_client(redis_server.url, in_turn=1)
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("pixmill:bell")
        with pytest.raises(RedisConnectionError):
            await client.ping()
    assert await client.ping()
    await client.aclose()


async def test_a_connection_that_fails_gives_its_turn_back() -> None:
    client = command_client(f"redis://127.0.0.1:{free_port()}", in_turn=1)
    for _ in "abc":
        with pytest.raises(RedisConnectionError, match="onnect"):
            await client.ping()
    await client.aclose()
