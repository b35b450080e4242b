"""The options of the clients of each kind of URL; tests/topologies shows that they work."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pixmill.broker.connect import BLOCKING_TIMEOUT_S, COMMAND_TIMEOUT_S, blocking_client, command_client
from pixmill.broker.errors import CONNECTION_FAULTS, in_words
from tests.servers import RedisServer

BIG = 64_000_000  # bytes; more than a socket takes at once
URLS = [
    "redis://h",
    "rediss://h",
    "redis+sentinel://s1,s2/shop",
    "rediss+sentinel://s1,s2/shop",
    "redis+cluster://a,b",
    "rediss+cluster://a,b",
]


def _options(client: Redis) -> dict[str, Any]:
    return client.connection_pool.connection_kwargs


@pytest.mark.parametrize("url", URLS)
async def test_no_client_sends_a_command_a_second_time(url: str) -> None:
    client = command_client(url, "{pixmill}")
    assert _options(client)["retry"].get_retries() == 0
    await client.aclose()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_command_leaves_before_its_caller_waits(
    redis_server: RedisServer, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def ping() -> None:
        client = command_client(redis_server.url)
        await client.ping()
        (connection,) = client.connection_pool._available_connections
        sending = connection.send_packed_command(connection.pack_command("PING"))
        with pytest.raises(StopIteration):
            sending.send(None)
        assert await connection.read_response() == b"PONG"
        await client.aclose()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ping())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_was_closed_meanwhile_is_reported_and_not_used_again(
    redis_server: RedisServer, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def ping() -> None:
        client = command_client(redis_server.url)
        await client.ping()
        (connection,) = client.connection_pool._available_connections
        assert connection._writer is not None
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(RedisConnectionError):
            await connection.send_packed_command(connection.pack_command("PING"))
        assert not connection.is_connected
        assert await client.ping()
        await client.aclose()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ping())


async def test_a_command_that_the_socket_does_not_take_is_late_at_its_time(redis_server: RedisServer) -> None:
    client = command_client(redis_server.url, timeout_s=0.2)
    await client.ping()
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(RedisTimeoutError, match="writing"):
            await client.set("big", bytes(BIG))
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    await client.aclose()


async def test_a_cancellation_that_comes_with_the_end_of_a_send_is_heeded(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = command_client(redis_server.url)
    await client.set("other", "ours")
    send = AbstractConnection._send_packed_command

    async def send_and_cancel(self: AbstractConnection, command: Any) -> None:
        await send(self, command)
        caller.cancel()

    async def set_big() -> None:
        await client.set("big", bytes(BIG))

    with monkeypatch.context() as patched:
        patched.setattr(AbstractConnection, "_send_packed_command", send_and_cancel)
        caller = asyncio.create_task(set_big())
        await asyncio.wait([caller])
    assert caller.cancelled()
    assert await client.get("other") == b"ours"  # not the reply that nobody has read
    await client.aclose()


@pytest.mark.parametrize("url", URLS)
async def test_a_blocking_read_has_more_patience_than_a_command(url: str) -> None:
    command, blocking = command_client(url, "{pixmill}"), blocking_client(url, "{pixmill}")
    assert _options(command)["socket_timeout"] == COMMAND_TIMEOUT_S
    assert _options(blocking)["socket_timeout"] == BLOCKING_TIMEOUT_S
    await command.aclose()
    await blocking.aclose()


@pytest.mark.parametrize("url", URLS)
async def test_tls_is_used_exactly_for_tls_urls(url: str) -> None:
    client = command_client(url, "{pixmill}")
    assert ("SSL" in client.connection_pool.connection_class.__name__) is url.startswith("rediss")
    await client.aclose()


async def test_the_masters_password_is_not_shown_to_the_sentinels() -> None:
    client = command_client("redis+sentinel://me:of-master@s1/shop/2")
    manager: Any = client.connection_pool.sentinel_manager  # type: ignore[attr-defined]  # of Sentinel's own pool
    (sentinel,) = manager.sentinels
    assert (_options(client)["username"], _options(client)["password"], _options(client)["db"]) == (
        "me",
        "of-master",
        2,
    )
    assert "of-master" not in str(_options(sentinel))
    assert _options(sentinel)["db"] == 0
    await client.aclose()


async def test_the_sentinels_have_their_own_password_where_the_url_has_one() -> None:
    client = command_client("redis+sentinel://me:of-master@s1:5/shop?sentinel_password=of-sentinel")
    manager: Any = client.connection_pool.sentinel_manager  # type: ignore[attr-defined]  # of Sentinel's own pool
    (sentinel,) = manager.sentinels
    assert (_options(sentinel)["host"], _options(sentinel)["port"]) == ("s1", 5)
    assert _options(sentinel)["password"] == "of-sentinel"
    assert "sentinel_password" not in _options(client)
    await client.aclose()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_port_with_or_without_tls_is_hinted_at(scheme: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if scheme == "rediss":
            writer.write(b"-ERR unknown command\r\n")
            return
        # A TLS server does that with bytes that are no handshake.
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = command_client(f"{scheme}://127.0.0.1:{port}/0")
    with pytest.raises(CONNECTION_FAULTS) as caught:
        await client.ping()
    await client.aclose()
    server.close()
    other = "rediss" if scheme == "redis" else "redis"
    assert f"write {other}:// instead of {scheme}://" in in_words(caught.value)
