"""Replicas that are closed after their test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from tests.daemon.worker.bare_replica import Replica

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
