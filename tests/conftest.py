"""A real server for every test, empty at its start, and the order in which xdist gives out the tests."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

from tests.servers import RedisServer

# These tests of the scripts run on both servers; all others run on the shipped Valkey alone, or on the server that
# TEST_REDIS_SERVER names (`make test-redis7`).
EVERY_SERVER = (
    "test_queue",
    "intake.test_reader",
    "test_fair_ring",
    "test_single_flight",
    "test_waiting",
    "test_parts",
    "worker.test_pool",
    "worker.test_dispatcher",
    "worker.test_permits",
    "worker.test_takeover",
    "limiter.test_leases",
)
REDIS = shutil.which("redis-server")
SERVERS = [
    pytest.param(None, id="valkey"),
    pytest.param(
        REDIS, id="redis", marks=pytest.mark.skipif(REDIS is None, reason="needs redis-server on PATH")
    ),
]


# Tests with one of these words in their id share a fixture that takes seconds, so one worker runs them all.
TOGETHER = re.compile(
    r"zombies|crash_matrix|test_gate|test_readme|e2e/test_gateway|cluster|sentinel|daemon/mirror|docs/test_sql|tests/(page|sdks)/test_\w+"
)


class OneByOne(LoadScopeScheduling):  # type: ignore[misc]  # its base has no types
    """Gives the next test to a free worker. (With pytest 9.2, the `loadgroup` of xdist 3.8 ignores its groups.)"""

    def _split_scope(self, nodeid: str) -> str:
        shared = TOGETHER.search(nodeid)
        return shared[0] if shared else nodeid


# Tests that wait for processes come first: at the end, a worker with the last of them would keep the others idle.
SLOW = ("tests/benchmarks", "tests/e2e", "tests/topologies")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(SLOW))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneByOne:
    return OneByOne(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "TEST_REDIS_SERVER" in os.environ:
        return
    if metafunc.module.__name__.endswith(EVERY_SERVER) and "redis_server" in metafunc.fixturenames:
        metafunc.parametrize("redis_server", SERVERS, indirect=True, scope="session")


# A process in the background ignores Ctrl-C, and one under `nohup` a hangup: so would each command that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No deadline: the machine may be busy, and the first example in a fresh clone builds tables.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """A command sets up the logs and the garbage collector of its process: here that of the tests after it."""
    root, thresholds = logging.getLogger(), gc.get_threshold()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture(scope="session", autouse=True)
def installed_packages() -> Iterator[None]:
    """Nothing is installed while tests run: they read the packages once, not for each connection and each provider."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", cache(importlib.metadata.version))
        patch.setattr("providers.registry.entry_points", cache(importlib.metadata.entry_points))
        yield


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    server = RedisServer(binary=getattr(request, "param", None))
    yield server
    server.close()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client whose server is empty; commands are sent once, never silently again."""
    client = Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0))
    await client.flushall()
    await client.script_flush("ASYNC")  # the old interpreter is freed in the background
    yield client
    await client.aclose()
