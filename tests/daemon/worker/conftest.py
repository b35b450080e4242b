"""Replicas that are closed after their test, and a server that can lose its last writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.daemon.worker.bare_replica import Replica
from tests.servers import RedisServer

MakeReplica = Callable[..., Replica]


@pytest.fixture
async def replica_of(redis: Redis) -> AsyncIterator[MakeReplica]:
    """Makes a replica with the limits of its quota."""
    made: list[Replica] = []

    def make(**options: object) -> Replica:
        made.append(Replica(redis, **options))  # type: ignore[arg-type]  # the worker, or a limit
        return made[-1]

    yield make
    for replica in made:
        await replica.close()


@pytest.fixture
def replica(replica_of: MakeReplica) -> Replica:
    """A replica whose route has no quota."""
    return replica_of()


@pytest.fixture(scope="session")
def lasting_server() -> Iterator[RedisServer]:
    # `always`, so that the size of the file shows what is in it.
    server = RedisServer(persistent=True, options=("--appendfsync", "always"))
    yield server
    server.close()


@pytest.fixture
async def lasting(lasting_server: RedisServer) -> AsyncIterator[Redis]:
    """A client that connects anew once, after the server was killed."""
    client = Redis.from_url(lasting_server.url, retry=Retry(NoBackoff(), 1))
    await client.flushall()
    yield client
    await client.aclose()
