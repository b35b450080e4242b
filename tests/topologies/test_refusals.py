"""A Redis replies and refuses our commands: readiness says why, and what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from daemon import service
from daemon.cli.commands.serve import banner
from daemon.settings import Settings, SettingsError
from daemon.settings.contradictions import contradictions
from pixmill.broker.connect import command_client
from pixmill.broker.errors import in_words, passes
from tests.conftest import REDIS
from tests.servers import RedisServer
from tests.topologies.rig import installed
from tests.topologies.servers import Cluster

pytestmark = pytest.mark.timeout(150)  # a cluster is started within the first test that needs one


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(None, id="valkey"),
        pytest.param(
            REDIS, id="redis", marks=pytest.mark.skipif(REDIS is None, reason="needs redis-server on PATH")
        ),
    ],
)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One that tests may configure."""
    server = RedisServer(binary=request.param)
    yield server
    server.close()


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Any]:
    client: Any = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
    yield client
    await client.replicaof("NO", "ONE")
    await client.config_set("maxmemory", 0)
    await client.config_set("min-replicas-to-write", 0)
    await client.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"])
    await client.aclose()


async def _refuse(admin: Any, how: str) -> None:
    if how == "memory":
        await admin.config_set("maxmemory", 1)
    if how == "replicas":
        await admin.config_set("min-replicas-to-write", 1)
    if how == "replica":
        await admin.replicaof("127.0.0.1", 1)
    if how == "acl":
        await admin.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], commands=["-set"])


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("memory", "no memory left"),
        ("replicas", "min-replicas-to-write"),
        ("replica", "read-only replica"),
        ("acl", "deploy/redis/users.acl"),
    ],
)
async def test_readiness_says_why_redis_does_not_take_our_writes(
    server: RedisServer, admin: Any, tmp_path: Path, how: str, sentence: str
) -> None:
    async with installed(server.url, tmp_path) as made:
        await made.ready()
        await _refuse(admin, how)
        (replica,) = made.replicas
        with pytest.raises(ResponseError) as caught:
            await replica.probe.write()
        assert passes(caught.value), "work that waits for it is kept"
        await made.unready(sentence)
        await admin.replicaof("NO", "ONE")
        await admin.config_set("maxmemory", 0)
        await admin.config_set("min-replicas-to-write", 0)
        await admin.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"])
        await made.ready()


async def test_the_start_reports_a_cluster_node_under_a_plain_url(cluster: Cluster, tmp_path: Path) -> None:
    """Every node is tried: one refuses the keys' slot, the others all other slots."""
    for node in cluster.nodes:
        async with installed(node.url, tmp_path, client_url=node.url) as made:
            await made.unready('"{pixmill}"')
            (replica,) = made.replicas
            with pytest.raises(SettingsError, match="redis\\+cluster://"):
                await service._greet_when_redis_answers(
                    service.Running(replica, node.url, None), lambda running: banner(running, "")
                )


# Redis 6.2 puts this before the error of a script's command.
IN_A_SCRIPT = "Error running script (call to f_1): @user_script:7: "


def test_a_cluster_wants_a_prefix_in_braces_also_from_the_python_client() -> None:
    with pytest.raises(ValueError, match=r'write "\{pixmill\}"'):
        command_client("redis+cluster://127.0.0.1:1")
    settings = Settings.model_validate({"redis": {"url": "redis+cluster://h"}})
    assert [at for at, _ in contradictions(settings)] == [("redis", "prefix")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (IN_A_SCRIPT + "-OOM command not allowed when used memory > 'maxmemory'.", "no memory left"),
        (IN_A_SCRIPT + "-READONLY You can't write against a read only replica.", "read-only replica"),
        (IN_A_SCRIPT + "The user executing the script can't run this command or subcommand", "users.acl"),
        (IN_A_SCRIPT + "Lua script attempted to access a non local key in a cluster node", "pixmill"),
        (
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            "disk",
        ),
    ],
)
def test_an_older_servers_refusals_are_known_too(text: str, sentence: str) -> None:
    assert sentence in in_words(ResponseError(text))
    assert passes(ResponseError(text))


def test_a_bug_in_a_script_is_no_refusal_that_passes() -> None:
    error = ResponseError("ERR user_script:12: attempt to index local 'f' (a nil value)")
    assert not passes(error)
    assert "refuses a command" in in_words(error)
