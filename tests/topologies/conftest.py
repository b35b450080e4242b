"""Servers for the core suite: a single one, a master with Sentinels, a cluster of three."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import REDIS
from tests.servers import RedisServer
from tests.topologies.rig import Installed, installed
from tests.topologies.servers import Cluster, Watched


@dataclass(frozen=True)
class Place:
    """A Redis of some kind, and the prefix for it."""

    url: str
    prefix: str = "pixmill"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Not shared: a failover leaves a master without a replica."""
    watched = Watched()
    yield watched
    watched.close()


@pytest.fixture(scope="session")
def lasting_watched() -> Iterator[Watched]:
    """For tests that leave the master alone."""
    watched = Watched()
    yield watched
    watched.close()


@pytest.fixture(scope="session")
def other_server() -> Iterator[RedisServer]:
    """A Redis, beside the shipped Valkey."""
    if REDIS is None:
        pytest.skip("needs redis-server on PATH")
    server = RedisServer(binary=REDIS)
    yield server
    server.close()


@pytest.fixture(params=["valkey", "redis", "sentinel", "cluster"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        cluster.flush()
        return Place(cluster.url, "{pixmill}")
    if request.param == "sentinel":
        watched: Watched = request.getfixturevalue("lasting_watched")
        _flush(watched.master)
        return Place(watched.url)
    name = "redis_server" if request.param == "valkey" else "other_server"
    server: RedisServer = request.getfixturevalue(name)
    _flush(server)
    return Place(server.url)


@pytest.fixture
async def installation(place: Place, tmp_path: Path) -> AsyncIterator[Installed]:
    async with installed(place.url, tmp_path, prefix=place.prefix) as made:
        yield made


def _flush(server: RedisServer) -> None:
    client: Any = redis.Redis(port=server.port)
    client.flushall()
    client.close()


@pytest.fixture
def durable() -> Iterator[RedisServer]:
    """A server of the test's own, with an AOF that is written with every command."""
    server = RedisServer(persistent=True, options=("--appendfsync", "always"))
    yield server
    server.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost reply is noticed in a second instead of ten."""
    monkeypatch.setattr("pixmill.broker.connect.COMMAND_TIMEOUT_S", 1.0)
    monkeypatch.setattr("pixmill.broker.connect.BLOCKING_TIMEOUT_S", 3.0)
    monkeypatch.setattr("daemon.queue.bell.POLL_S", 0.5)
