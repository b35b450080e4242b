"""Pools whose callers wait for a free connection.

redis-py refuses a call beyond `max_connections`, which looks like an outage. A burst of requests is none: each waits
for its turn, and only a Redis that hangs lets it wait for long.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

TURN_S = 5.0  # a busy process needs some for a burst; under a Redis that hangs, each turn is a lost one


class _InTurn(ConnectionPool):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._places = asyncio.Semaphore(self.max_connections)
        self._lent: set[AbstractConnection] = set()

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        try:
            async with asyncio.timeout(TURN_S if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError:
            sentence = f"No connection to Redis was free for {TURN_S:g} s."
            raise RedisConnectionError(sentence) from None
        try:
            connection: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]  # the library's
        except BaseException:
            self._places.release()
            raise
        self._lent.add(connection)
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        # A failed `get_connection` of the library also releases; that connection was never lent.
        if connection in self._lent:
            self._lent.discard(connection)
            self._places.release()
        await super().release(connection)


class PoolInTurn(_InTurn):
    """A pool for one server, or for the node of a cluster that has all keys."""


class SentinelPoolInTurn(_InTurn, SentinelConnectionPool):
    """A pool for the master that Sentinels know."""
