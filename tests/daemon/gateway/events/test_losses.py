"""Listeners while something ends or is lost: a client, a gateway, Redis, events that are kept no longer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import httpx2
import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.events.sse import (
    BATCH,
    KEYS,
    caught_up,
    finish,
    ids_of,
    listeners,
    listening,
    publish,
    resyncs,
)
from tests.daemon.gateway.rig import Door, open_door, refusal
from tests.daemon.harness import eventually
from tests.servers import RedisServer

MANY = 200


async def test_a_last_event_that_is_trimmed_is_a_resync_then_live(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 1)
    known = (await ids_of(redis, "b1"))[0]
    await publish(redis, "b1", 0, 10)
    for stream in (KEYS.events, KEYS.batch_events("b1")):
        await redis.xtrim(stream, maxlen=3, approximate=False)
    for path in (BATCH, "/v1/events"):
        await caught_up(quiet_door.gateway.hub, redis)
        newest = (await ids_of(redis, "b1"))[-1]
        async with listening(quiet_door.http, path, known) as heard:
            await heard.until_kind("resync")
            await publish(redis, "b1", 10, 3)
            await heard.until(3)
        assert heard.frames[0] == (newest, "resync", {"after": newest})
        assert heard.ids == (await ids_of(redis, "b1"))[-3:]
    assert resyncs(quiet_door) == 2


async def test_an_ended_batch_whose_events_are_gone_is_a_resync_and_an_end(
    quiet_door: Door, redis: Redis
) -> None:
    await quiet_door.installation.batch("b1", 1)
    await finish(quiet_door)
    await redis.delete(KEYS.batch_events("b1"))
    async with listening(quiet_door.http, BATCH) as heard:
        await asyncio.wait_for(heard.closed.wait(), 10)
    assert heard.kinds == ["resync", "end"]


async def test_an_id_of_a_future_that_was_lost_is_a_resync(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 1)
    async with listening(quiet_door.http, BATCH, "9000000000000-0") as heard:
        await heard.until_kind("resync")
        await publish(redis, "b1", 0, 2)
        await heard.until(2)
    assert heard.ids == (await ids_of(redis, "b1"))[-2:]


async def test_a_batch_whose_stream_is_somebodys_key_is_heard_live(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 1)
    await redis.delete(KEYS.batch_events("b1"))
    await redis.set(KEYS.batch_events("b1"), "somebody's")
    await caught_up(quiet_door.gateway.hub, redis)
    async with listening(quiet_door.http, BATCH) as heard:
        await heard.until_kind("resync")
        await publish(redis, "b1", 0, 2)
        await heard.until(2)
    assert heard.kinds == ["resync", "batch.progress", "batch.progress"]


async def test_a_client_that_goes_away_leaves_nothing_behind(quiet_door: Door) -> None:
    await quiet_door.installation.batch("b1", 1)
    async with listening(quiet_door.http, BATCH), listening(quiet_door.http, "/v1/events"):

        async def both() -> bool:
            return listeners(quiet_door) == 2

        await eventually(both)
        assert len(quiet_door.gateway.hub._subscribers) == 2

    async def none() -> bool:
        return listeners(quiet_door) == 0

    await eventually(none)
    assert quiet_door.gateway.hub._subscribers == {}


async def test_a_reader_that_reads_nothing_holds_up_nobody(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 1)
    address = urlsplit(quiet_door.url)
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((address.hostname, address.port))
        silent.sendall(f"GET {BATCH} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        async with listening(quiet_door.http, BATCH) as heard:
            await publish(redis, "b1", 0, 800, pad=20_000)
            await heard.until(802)
            assert heard.ids == await ids_of(redis, "b1")
        stopping = asyncio.get_running_loop().time()
        await quiet_door.gateway.end_streams()
        assert asyncio.get_running_loop().time() - stopping < 1
        await asyncio.sleep(0)

        async def none() -> bool:
            return listeners(quiet_door) == 0

        await eventually(none, 1)


async def test_a_gateway_stops_and_its_listeners_go_on_at_another_one(
    quiet_door: Door, redis: Redis, redis_server: RedisServer
) -> None:
    await quiet_door.installation.batch("b1", 1)
    async with open_door(redis, redis_server.url, decide=None) as other, AsyncExitStack() as stack:
        before = [await stack.enter_async_context(listening(quiet_door.http, BATCH)) for _ in range(20)]
        burst = asyncio.create_task(publish(redis, "b1", 0, 300))
        for heard in before:
            await heard.until(100)
        await quiet_door.gateway.end_streams()
        for heard in before:
            await asyncio.wait_for(heard.closed.wait(), 1)
        refused = await quiet_door.http.get(BATCH)
        assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
        after = [
            await stack.enter_async_context(listening(other.http, BATCH, each.ids[-1])) for each in before
        ]
        await burst
        ids = await ids_of(redis, "b1")
        for first, second in zip(before, after, strict=True):
            await second.until(len(ids) - len(first.ids))
            assert first.ids + second.ids == ids
            assert "end" not in first.kinds


@pytest.fixture
async def lasting() -> AsyncIterator[tuple[RedisServer, Redis]]:
    """A server whose data outlives its process."""
    server = RedisServer(persistent=True, options=("--appendfsync", "always"))
    redis = Redis.from_url(server.url)
    yield server, redis
    await redis.aclose()
    server.close()


async def test_redis_restarts_and_every_listener_has_every_event_once(
    lasting: tuple[RedisServer, Redis],
) -> None:
    server, redis = lasting
    unlimited = httpx2.Limits(max_connections=None)
    async with open_door(redis, server.url, decide=None) as door, AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=door.url, limits=unlimited))
        await door.installation.batch("b1", 1)
        paths = [BATCH] * MANY + ["/v1/events?after=0-0"]
        everybody = [await stack.enter_async_context(listening(http, path)) for path in paths]
        await publish(redis, "b1", 0, 20)
        server.kill()

        async def noticed() -> bool:
            return not door.gateway.readiness()[0]

        await eventually(noticed)
        for path in (BATCH, "/v1/events"):
            assert refusal(await door.http.get(path)) == (503, "redis_unavailable", None)
        server.start()
        await redis.connection_pool.disconnect()
        await publish(redis, "b1", 20, 20)
        ids = await ids_of(redis, "b1")
        for heard in everybody:
            await heard.until(len(ids))
            assert heard.ids == ids
        assert door.gateway.readiness() == (True, "serving")
        assert resyncs(door) == 0


async def test_redis_that_lost_its_last_writes_sends_everybody_a_resync(
    lasting: tuple[RedisServer, Redis],
) -> None:
    server, redis = lasting
    async with open_door(redis, server.url, decide=None) as door:
        await door.installation.batch("b1", 1)
        async with listening(door.http, BATCH) as heard:
            await publish(redis, "b1", 0, 5)
            kept = server.written
            await publish(redis, "b1", 5, 5)
            await heard.until(12)
            server.lose(since=kept)
            await redis.connection_pool.disconnect()
            await heard.until_kind("resync")
            await publish(redis, "b1", 10, 3)
            await heard.until(15)
        ids = await ids_of(redis, "b1")
        assert heard.frames[12] == (ids[6], "resync", {"after": ids[6]})
        assert heard.ids[12:] == ids[7:]
