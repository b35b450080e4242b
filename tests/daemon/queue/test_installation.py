"""The installation's own record: the schema of the records in Redis, and how long they are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.maintenance.write_probe import WriteProbe
from daemon.queue.messages import SCHEMA, NewerSchemaError
from daemon.queue.orders import CANCEL_STATES, Orders
from daemon.queue.outcomes import Failed, Succeeded
from daemon.service import run_worker
from daemon.settings.model import RetentionSettings, Settings, SettingsError
from pixmill.client import Client
from tests.daemon.harness import Installation, eventually, worker_settings
from tests.servers import RedisServer

DAY_S = 24 * 3600
ERROR = {"kind": "invalid_request", "message": "It cannot work.", "charged": "no"}


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


@pytest.fixture
async def client(redis_server: RedisServer) -> Client:
    return Client(redis_server.url)


async def lives_s(installation: Installation, ident: str) -> int:
    ttl_ms: int = await installation.redis.pttl(installation.keys.item(f"default//{ident}"))
    return round(ttl_ms / 1000)


async def test_a_cancel_by_a_producer_keeps_the_record_as_the_operator_set(
    installation: Installation, client: Client
) -> None:
    await installation.queue.install(records_s=600, failed_s=1200, starts=True)
    await installation.submit({"id": "a", "prompt": "x"})
    async with client:
        await Orders(client.redis, client.keys).cancel("item", "default//a", CANCEL_STATES)
    assert await lives_s(installation, "a") == 1200


async def test_a_success_and_another_end_have_their_own_retention(installation: Installation) -> None:
    await installation.queue.install(records_s=600, failed_s=1200, starts=True)
    await installation.submit({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    first, second = await installation.claim(2)
    await installation.queue.settle(first, Succeeded({"images": []}))
    await installation.queue.settle(second, Failed(ERROR))
    assert (await lives_s(installation, "a"), await lives_s(installation, "b")) == (600, 1200)


async def test_records_have_the_default_retention_before_the_first_replica(
    installation: Installation, client: Client
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    async with client:
        await Orders(client.redis, client.keys).cancel("item", "default//a", CANCEL_STATES)
    assert await lives_s(installation, "a") == 7 * DAY_S


async def test_the_record_comes_back_after_redis_lost_its_state(installation: Installation) -> None:
    probe = WriteProbe(installation.queue, RetentionSettings(records=600), '{"quotas":{}}')
    await probe.write()
    await installation.redis.flushall()
    await probe.write()
    found = await installation.redis.hgetall(installation.keys.installation)
    assert (
        found.items()
        >= {
            b"schema": b"1",
            b"records_us": b"600000000",
            b"failed_us": b"604800000000",
            b"configured": b'{"quotas":{}}',
        }.items()
    )


async def test_of_two_retentions_the_one_of_the_newest_start_stays(installation: Installation) -> None:
    older = WriteProbe(installation.queue, RetentionSettings(records=600))
    newer = WriteProbe(installation.other("w2"), RetentionSettings(records=1200))
    for probe in (older, newer, older, newer, older):
        await probe.write()
    found = await installation.redis.hget(installation.keys.installation, "records_us")
    assert found == b"1200000000"


async def test_the_schema_rises_again_after_a_failover_lost_it(installation: Installation) -> None:
    probe = WriteProbe(installation.queue, RetentionSettings())
    await probe.write()
    await installation.redis.hset(installation.keys.installation, "schema", SCHEMA - 1)
    await probe.write()
    assert await installation.redis.hget(installation.keys.installation, "schema") == str(SCHEMA).encode()


async def test_a_newer_schema_is_neither_overwritten_nor_used(installation: Installation) -> None:
    await installation.redis.hset(
        installation.keys.installation, mapping={"schema": SCHEMA + 1, "failed_us": 7}
    )
    with pytest.raises(NewerSchemaError, match=f"knows the schema {SCHEMA} .* the schema {SCHEMA + 1} "):
        await installation.queue.install(records_s=600, failed_s=600, starts=True)
    found = await installation.redis.hgetall(installation.keys.installation)
    assert found == {b"schema": str(SCHEMA + 1).encode(), b"failed_us": b"7"}


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PLANTED", "a-key")
    return worker_settings(redis_server.url, tmp_path)


async def test_a_replica_that_finds_a_newer_schema_does_not_start(
    installation: Installation, settings: Settings
) -> None:
    await installation.redis.hset(installation.keys.installation, "schema", SCHEMA + 1)
    await installation.add({"id": "a", "prompt": "x"})
    with pytest.raises(SettingsError, match="install the version of the other replicas"):
        await asyncio.wait_for(run_worker(settings), 20)
    assert await installation.redis.xlen(installation.keys.jobs) == 1, "nothing was read"
    assert not await installation.redis.exists(installation.keys.index)


async def test_a_running_replica_ends_when_a_newer_schema_appears(
    installation: Installation, settings: Settings
) -> None:
    running = asyncio.create_task(run_worker(settings))

    async def wrote_its_schema() -> bool:
        return bool(await installation.redis.exists(installation.keys.installation))

    await eventually(wrote_its_schema)
    await installation.redis.hset(installation.keys.installation, "schema", SCHEMA + 1)
    with pytest.raises(SettingsError, match="install the version of the other replicas"):
        await asyncio.wait_for(running, 20)
