"""Batches of tenants with keys: each key sees, orders and deletes the work of its own tenant alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.callers.keys import made
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.gateway.test_batches import LINES, TABLE, batch, keys, lines
from tests.servers import RedisServer


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
async def locked(redis: Redis, redis_server: RedisServer, keys_file: Path) -> AsyncIterator[Door]:
    """A gateway with keys, without a worker."""
    made(keys_file, "first", "read")
    async with open_door(redis, redis_server.url, decide=None, keys_file=keys_file) as door:
        yield door


async def test_a_batch_belongs_to_the_tenant_of_its_key_in_every_form(locked: Door, keys_file: Path) -> None:
    headers = made(keys_file, "shop", "submit", tenant="shop")
    item = {"id": "a", "prompt": "x"}
    for content, kind, where in (
        (lines({"id": "b1"}, item), LINES, ""),
        (b"id,prompt\na,x\n", TABLE, "?id=b2"),
    ):
        answer = await locked.http.post(f"/v1/batches{where}", content=content, headers={**headers, **kind})
        assert answer.status_code == 202, answer.text
    assert (await locked.http.post("/v1/batches", json=batch("b3", 1), headers=headers)).status_code == 202
    assert sorted(await locked.installation.redis.zrange("pixmill:index", 0, -1)) == [
        b"shop/b1",
        b"shop/b2",
        b"shop/b3",
    ]


async def test_another_tenant_in_any_form_of_a_batch_is_refused(locked: Door, keys_file: Path) -> None:
    headers = made(keys_file, "shop", "submit", tenant="shop")
    before = await keys(locked)
    item = {"id": "a", "prompt": "x"}
    for content, kind, where in (
        (lines({"id": "b1", "tenant": "other"}, item), LINES, ""),
        (b"id,prompt\na,x\n", TABLE, "?id=b2&tenant=other"),
    ):
        answer = await locked.http.post(f"/v1/batches{where}", content=content, headers={**headers, **kind})
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_tenant")
    answer = await locked.http.post("/v1/batches", json=batch("b3", 1, tenant="other"), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_tenant")
    assert await keys(locked) == before


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", ""),
        ("GET", "/items"),
        ("GET", "/log"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("DELETE", ""),
    ],
)
async def test_a_foreign_batch_is_as_unknown_as_none(
    locked: Door, keys_file: Path, method: str, rest: str
) -> None:
    owner, other = (made(keys_file, name, "submit", tenant=name) for name in ("shop", "other"))
    await locked.http.post("/v1/batches", json=batch("b1", 2), headers=owner)
    body: dict[str, str] | None = {} if method == "POST" else None
    answers = [
        await locked.http.request(method, f"/v1/batches/{ident}{rest}", json=body, headers=other)
        for ident in ("b1", "unknown")
    ]
    foreign, unknown = (answer.json() for answer in answers)
    assert foreign == unknown
    assert foreign["code"] == "not_found"
    assert (await locked.http.get("/v1/batches", headers=other)).json()["batches"] == []
    record = (await locked.http.get("/v1/batches/b1", headers=owner)).json()
    assert (record["state"], record["counts"]["queued"], record["paused"]) == ("running", 2, None)


@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("POST", "/v1/batches"),
        ("POST", "/v1/batches/b1/cancel"),
        ("POST", "/v1/batches/b1/retry"),
        ("POST", "/v1/batches/b1/pause"),
        ("POST", "/v1/batches/b1/resume"),
        ("DELETE", "/v1/batches/b1"),
        ("DELETE", "/v1/jobs/j1"),
    ],
)
async def test_a_key_that_may_only_read_changes_no_batch(
    locked: Door, keys_file: Path, method: str, where: str
) -> None:
    reader = made(keys_file, "reader", "read", tenant="shop")
    answer = await locked.http.request(method, where, json={} if method == "POST" else None, headers=reader)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


async def test_lines_beyond_64_mib_are_refused_before_they_are_read(quiet_door: Door) -> None:
    at = urlsplit(quiet_door.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    head = "POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    writer.write(f"{head}Content-Length: {64 * 1024**2 + 1}\r\n\r\n{{".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
