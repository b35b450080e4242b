"""The shipped ACL, loaded as it is: each user can do its work and nothing else."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError

from daemon.accounts.quota_store import reset, set_limits
from daemon.doctor.checks import State, examine
from daemon.doctor.permissions import OTHERS, TRIED
from daemon.doctor.redis_checks import redis_checks
from daemon.queue.orders import Orders
from pixmill.broker.connect import command_client
from providers.simulator.faults import Fault, FaultKind
from tests.conftest import REDIS
from tests.daemon.harness import eventually
from tests.deploy.files import DEPLOY, ROOT
from tests.servers import RedisServer
from tests.topologies.rig import FIELDS, PATIENCE_S, Installed, installed

USERS = DEPLOY / "redis" / "users.acl"
SERVERS = [
    pytest.param(None, id="valkey"),
    pytest.param(
        REDIS, id="redis", marks=pytest.mark.skipif(REDIS is None, reason="needs redis-server on PATH")
    ),
]


pytestmark = pytest.mark.timeout(150)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A server with exactly the shipped file; the server writes to its file, so it gets a copy."""
    copy = tmp_path / "users.acl"
    copy.write_bytes(USERS.read_bytes())
    server = RedisServer(binary=request.param, persistent=True, options=("--aclfile", str(copy)))
    yield server
    server.close()


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Any]:
    """Gives both users their passwords, with the commands that docs/operating.md shows."""
    client: Any = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
    for user in ("worker", "producer"):
        await client.execute_command("ACL", "SETUSER", f"pixmill-{user}", f">planted-{user}")
    await client.execute_command("ACL", "SAVE")
    yield client
    await client.aclose()


def _as(user: str, server: RedisServer) -> str:
    return server.url.replace("redis://", f"redis://pixmill-{user}:planted-{user}@")


@pytest.fixture
async def producer(server: RedisServer, admin: Any) -> AsyncIterator[Any]:
    client = command_client(_as("producer", server))
    yield client
    await client.aclose()


async def test_nobody_comes_in_before_a_password_was_set(server: RedisServer) -> None:
    for user in ("worker", "producer", "admin"):
        client = command_client(_as(user, server))
        with pytest.raises(AuthenticationError):
            await client.ping()
        await client.aclose()


async def test_a_worker_may_do_all_that_a_run_needs_and_nothing_is_refused(
    server: RedisServer, admin: Any, producer: Any, tmp_path: Path
) -> None:
    await admin.execute_command("ACL", "LOG", "RESET")
    await admin.execute_command("CONFIG", "RESETSTAT")
    async with installed(_as("worker", server), tmp_path, quota={"in_flight": 4, "images": "40/s"}) as made:
        await made.ready()
        await _whole_path(made, producer)
        findings = await examine(redis_checks(made.client.redis, made.client.keys))
        assert {finding.state for finding in findings} == {State.OK}, findings
    refused: Any = await admin.execute_command("ACL", "LOG")
    assert [(entry[b"object"], entry[b"username"]) for entry in map(_pairs, refused)] == []


async def _whole_path(made: Installed, producer: Any) -> None:
    """Every order and every query, sent as the producer or as the worker's user."""
    keys, client = made.client.keys, made.client
    made.simulator.faults.add(Fault(kind=FaultKind.RATE_LIMIT, count=1))
    made.simulator.faults.add(Fault(kind=FaultKind.SERVER_ERROR, count=1))
    await producer.xadd(keys.jobs, {"data": "{"})
    await producer.xadd(keys.jobs, {"data": orjson.dumps({"id": "one", "prompt": "single", **FIELDS})})
    await producer.xadd(
        keys.jobs, {"data": orjson.dumps({"id": "three", "prompt": "triple", "n": 3, "priority": "high"})}
    )
    rows = [{"id": f"i{k}", "prompt": f"item {k}", **FIELDS} for k in range(30)]
    batch = orjson.dumps({"id": "b1", "items": rows, "max_in_flight": 2})
    await producer.xadd(keys.jobs, {"type": "pixmill.batch.v1", "data": batch})
    await made.reached("b1", succeeded=3)
    assert await client.redis.lrange(f"{keys.prefix}:x", 0, 0) == []
    await Orders(client.redis, keys).cancel("group", "default/b1", ("queued", "running"))
    await made.ended("b1")
    await producer.xadd(
        keys.jobs,
        {
            "type": "pixmill.retry.v1",
            "data": orjson.dumps({"batch": "b1", "statuses": ["cancelled"]}),
        },
    )

    async def all_made() -> bool:
        return (await made.counts("b1"))["succeeded"] == 30

    await eventually(all_made, PATIENCE_S)
    await made.send("tasks", 3, route="tasks")
    await made.ended("tasks")
    await _operators(made)
    # The producer reads the events of its batch and those of single jobs.
    events: Any = await producer.xread({keys.batch_events("b1"): "0", keys.events: "0"})
    assert events


async def _operators(made: Installed) -> None:
    """Commands that people run as the worker's user."""
    from daemon.queue.dead_letters import DeadLetters

    client, (replica,) = made.client, made.replicas
    quota = {"in_flight": 4, "images": "40/s"}
    await set_limits(client.redis, client.keys, "sync", quota, {"in_flight": 3})
    await reset(client.redis, client.keys, "sync")
    await replica.limiter.pause("sync", "lunch")
    await replica.limiter.resume("sync")
    await replica._gauges.refresh()
    letters = DeadLetters(client.redis, client.keys)
    (letter,) = await letters.newest(5)
    assert await letters.retry(letter) == "resent"


def _pairs(row: Any) -> dict[bytes, Any]:
    return dict(row) if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))


NOT_A_PRODUCERS = """
    XRANGE pixmill:jobs - +
    XREAD STREAMS pixmill:jobs 0
    XLEN pixmill:jobs
    XTRIM pixmill:jobs MAXLEN 0
    XDEL pixmill:jobs 0-1
    DEL pixmill:jobs
    XGROUP CREATE pixmill:jobs mine 0
    XADD pixmill:events * type job.succeeded
    XADD pixmill:dead * a b
    XADD elsewhere * a b
    XRANGE pixmill:dead - +
    HGETALL pixmill:item:default//one
    GET pixmill:limiter:clock
    EVAL return 0
    PUBLISH pixmill:bell work
    SUBSCRIBE pixmill:bell
    KEYS *
    FLUSHALL
    CONFIG GET *
    ACL LIST
"""
NOT_A_WORKERS = """
    GET elsewhere
    SET other:x 1
    PUBLISH other x
    XTRIM pixmill:jobs MAXLEN 0
    SCAN 0
    KEYS *
    FLUSHALL
    FLUSHDB
    SCRIPT FLUSH
    CONFIG GET *
    ACL LIST
    CLIENT LIST
    MONITOR
    SHUTDOWN
"""


@pytest.mark.parametrize(("user", "commands"), [("producer", NOT_A_PRODUCERS), ("worker", NOT_A_WORKERS)])
async def test_neither_user_can_do_anything_else(
    server: RedisServer, admin: Any, user: str, commands: str
) -> None:
    client: Any = command_client(_as(user, server))
    allowed = []
    for words in commands.strip().splitlines():
        try:
            # Every command has as many words as it needs: an error of that kind would come first.
            await client.execute_command(*words.split(), *(["0"] if "EVAL" in words else []))
        except NoPermissionError:
            continue
        allowed.append(words.strip())
    assert allowed == []
    await client.aclose()


def _granted(user: str) -> set[str]:
    (line,) = [line for line in USERS.read_text().splitlines() if line.startswith(f"user pixmill-{user} ")]
    return set(re.findall(r" \+(\S+)", line))


def test_the_doctor_tries_all_that_the_file_grants_a_worker() -> None:
    assert _granted("worker") == {command.split()[0] for command in TRIED} | set(OTHERS)


async def test_every_command_of_a_script_is_granted(redis: Redis) -> None:
    """Commands that no run here happens to send are included."""
    words: dict[str, str] = {}
    for path in [*(ROOT / "daemon").rglob("*.lua"), *(ROOT / "limiter").rglob("*.lua")]:
        code = re.sub(r"--.*", "", path.read_text())
        words |= {word.lower(): path.name for word in re.findall(r"'([A-Z]{3,})'", code)}
    known: Any = await redis.command()
    granted = {name.partition("|")[0] for name in _granted("worker")}
    lacking = {word: words[word] for word in words.keys() & known.keys() - granted}
    assert not lacking, f"write them in deploy/redis/users.acl and daemon/doctor/permissions.py: {lacking}"
