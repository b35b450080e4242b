"""Makes Redis clients that send a command once, with separate clients for blocking reads.

`redis.url` leads to one server, to the master that Sentinels know, or to a cluster. A client is the same everywhere:
all keys of an installation share a slot, so even on a cluster one node has them all.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from pixmill.broker.cluster import OwnerConnection, OwnerSSLConnection, SlotOwner
from pixmill.broker.redis_url import RedisAddress, one_slot_sentence, read_redis_url
from pixmill.broker.turns import PoolInTurn, SentinelPoolInTurn

COMMAND_TIMEOUT_S = 10.0
# Longer than any blocking read here: a quiet stream does not look like a dead server, and a dead one is noticed.
BLOCKING_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 5.0
CONNECTIONS = 256
# For look-ups: a Sentinel or node replies at once, or the next one is tried.
LOOKUP_TIMEOUT_S = 2.0


def command_client(
    url: str, prefix: str = "pixmill", *, timeout_s: float = COMMAND_TIMEOUT_S, in_turn: int | None = None
) -> Redis:
    """A client for commands and scripts. On a cluster, the `prefix` of the installation decides the node.

    A reply, and a connection, may take `timeout_s`. With `in_turn`, calls beyond so many connections wait for one of
    them; a crowd of requests needs that, and workers' calls are few and large.

    By default redis-py retries a command up to ten times, even after a lost reply: one XADD then becomes several. We
    repeat our own steps, where that is safe. Raises ValueError for a URL that cannot be read, and for a cluster
    without a prefix in braces.
    """
    return _client(url, prefix, timeout_s, in_turn)


def blocking_client(url: str, prefix: str = "pixmill") -> Redis:
    """A client for blocking reads and subscriptions; commands would wait behind those, so they never share it."""
    return _client(url, prefix, BLOCKING_TIMEOUT_S)


def _client(url: str, prefix: str, timeout_s: float, in_turn: int | None = None) -> Redis:
    client = _library_client(url, prefix, timeout_s, in_turn)
    pool = client.connection_pool
    pool.connection_class = _prompt(pool.connection_class)
    return client


def _library_client(url: str, prefix: str, timeout_s: float, in_turn: int | None) -> Redis:
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(CONNECT_TIMEOUT_S, timeout_s),
        "socket_keepalive": True,
        "health_check_interval": 15,
        "max_connections": in_turn or CONNECTIONS,
        # These two would send commands that have no use here, and that an ACL would have to allow.
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    address = read_redis_url(url)
    if address.topology == "sentinel":
        pools: type[SentinelConnectionPool] = SentinelPoolInTurn if in_turn else SentinelConnectionPool
        return _of_sentinels(address, {**options, **address.options}, pools)
    pool: type[ConnectionPool] = PoolInTurn if in_turn else ConnectionPool
    if address.topology == "cluster":
        return _of_cluster(address, prefix, {**options, **address.options}, pool)
    return Redis.from_pool(pool.from_url(url, **options))


class _Prompt(AbstractConnection):
    """A connection that sends at once where the socket, or TLS, takes all, so a command needs no task and no timer.

    The library sends by `asyncio.wait_for`, which until Python 3.12 begins a task, and swallows a cancellation that
    comes together with the end of the send (python/cpython#86296). Its caller may be a loop, which would never end.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self.is_connected and check_health:
            await self.check_health()  # type: ignore[no-untyped-call]  # the library's
        writer = self._writer
        if writer is not None and isinstance(command, list):
            try:
                writer.writelines(command)
            except (OSError, RuntimeError) as error:  # uvloop raises for a closed connection
                await self.disconnect(nowait=True)
                raise RedisConnectionError("The connection was closed before the command left.") from error
            if writer.transport.get_write_buffer_size() == 0 and not writer.is_closing():
                return
            command = []  # the library waits for the rest, or finds what went wrong
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        await super().send_packed_command(command, check_health=False)
        if task is not None and task.cancelling() > before:
            await self.disconnect(nowait=True)  # nobody will read the reply
            raise asyncio.CancelledError


def _prompt(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    return type(f"Prompt{connection_class.__name__}", (_Prompt, connection_class), {})


class _SentinelClient(Redis):
    """A client of the master that also closes its connections to the Sentinels."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if isinstance(self.connection_pool, SentinelConnectionPool):
            await self.connection_pool.sentinel_manager.aclose()


def _of_sentinels(
    address: RedisAddress, options: dict[str, Any], pool: type[SentinelConnectionPool]
) -> Redis:
    # The user and password in the URL are for the master, never for the Sentinels.
    of_sentinels = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    own = {**_of_lookups(options), **of_sentinels, "ssl": address.tls}
    sentinel = Sentinel(address.nodes, sentinel_kwargs=own, **options)  # type: ignore[no-untyped-call]  # the library's
    client: Redis = sentinel.master_for(
        address.service,
        redis_class=_SentinelClient,
        connection_pool_class=pool,
        ssl=address.tls,
    )
    return client


def _of_cluster(
    address: RedisAddress, prefix: str, options: dict[str, Any], pool: type[ConnectionPool]
) -> Redis:
    if not prefix.startswith("{"):
        raise ValueError(f"`redis.prefix` {one_slot_sentence(prefix)}.")
    owner = SlotOwner(address.nodes, prefix, {**_of_lookups(options), "ssl": address.tls})
    kind = OwnerSSLConnection if address.tls else OwnerConnection
    return Redis.from_pool(pool(connection_class=kind, owner=owner, **options))


def _of_lookups(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a connection for a look-up: the same, with shorter timeouts."""
    less = {"socket_timeout": LOOKUP_TIMEOUT_S, "socket_connect_timeout": LOOKUP_TIMEOUT_S, "db": 0}
    return {**{name: value for name, value in options.items() if name != "max_connections"}, **less}
