"""Gateways as processes: one is killed or stopped, Redis restarts, and a crowd comes; callers lose and pay nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from redis.asyncio import Redis

from daemon.gateway.callers.keyring import COOKIE
from daemon.gateway.callers.keys_file import add_key
from daemon.worker.descriptors import raise_limit
from tests.daemon.gateway.events.sse import Heard, ids_of, listening
from tests.daemon.harness import eventually
from tests.e2e.processes import Command, SimulatorProcess
from tests.e2e.test_fleet import CONFIG, KEY
from tests.servers import RedisServer

GATEWAY = """
[gateway]
listen = "127.0.0.1:0"
keys_file = "{directory}/keys.json"
[webhooks.shop]
secret_env = "E2E_WEBHOOK"
"""
WEBHOOK = "whsec_YSBwbGFudGVkIHNlY3JldCBvZiBhIHNob3Ah"
ITEMS = 30
CROWD = 2000
DESCRIPTORS = 256
PADDED_BYTES = 2 * 1024**2


@dataclass
class Process:
    """A gateway, and a client of it that has a key."""

    command: Command
    url: str
    http: httpx2.AsyncClient


@dataclass
class Site:
    """A Redis, a simulator and a worker, and the gateways that a test starts."""

    directory: Path
    server: RedisServer
    simulator: SimulatorProcess
    key: str
    lasting: tuple[Command, str] | None = None  # the gateway that no test ends
    commands: list[Command] = field(default_factory=list)
    secrets: list[str] = field(default_factory=lambda: [KEY, WEBHOOK])

    def start(self, *arguments: str, ready: str, **more: Any) -> tuple[Command, str]:
        words = [*arguments, "--config", str(self.directory / "pixmill.toml")]
        command = Command(words, self.directory, E2E_API_KEY=KEY, E2E_WEBHOOK=WEBHOOK, **more)
        self.commands.append(command)
        return command, command.wait_for(ready)

    def start_gateway(self, **more: str) -> tuple[Command, str]:
        command, line = self.start("gateway", ready="gateway started", **more)
        found = re.search(r"http://[\w.]+:\d+", line)
        assert found is not None
        return command, found[0]

    def client(self, url: str) -> httpx2.AsyncClient:
        headers, limits = {"authorization": f"Bearer {self.key}"}, httpx2.Limits(max_connections=None)
        return httpx2.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60, trust_env=False)

    @asynccontextmanager
    async def gateway(self, **more: str) -> AsyncIterator[Process]:
        """A gateway for one test."""
        command, url = await asyncio.to_thread(self.start_gateway, **more)
        try:
            async with self.client(url) as http:
                yield Process(command, url, http)
        finally:
            command.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("gateway")
    server = RedisServer(persistent=True, options=("--appendfsync", "always"))
    simulator = SimulatorProcess(directory, "--plain", "--latency", "0.3-0.4")
    key = add_key(directory / "keys.json", "boss", "default", frozenset({"admin"}))
    values = {
        "redis_url": server.url,
        "directory": directory,
        "base_url": simulator.base_url,
        "quota": "in_flight = 4",
    }
    (directory / "pixmill.toml").write_text((CONFIG + GATEWAY).format(**values))
    site = Site(directory, server, simulator, key)
    site.secrets.append(key)
    site.start("worker", ready="replica started")
    site.lasting = site.start_gateway()
    yield site
    for command in site.commands:
        if command.process.poll() is None:
            command.stop(60)
    simulator.stop()
    server.close()
    written = "\n".join(command.output for command in site.commands)
    assert [secret for secret in site.secrets if secret in written] == []
    assert "Traceback" not in written


@pytest.fixture
async def redis(site: Site) -> AsyncIterator[Redis]:
    async with Redis.from_url(site.server.url) as client:
        yield client


@pytest.fixture
async def lasting(site: Site) -> AsyncIterator[Process]:
    """The gateway that no test ends."""
    assert site.lasting is not None
    command, url = site.lasting
    async with site.client(url) as http:
        yield Process(command, url, http)


async def submit(gateway: Process, ident: str, count: int = ITEMS) -> None:
    items = [{"id": f"i{k}", "prompt": f"{ident} {k}", "output": {"thumbnail": False}} for k in range(count)]
    answer = await gateway.http.post("/v1/batches", json={"id": ident, "items": items})
    assert answer.status_code == 202, answer.text


async def listeners(
    stack: AsyncExitStack, gateway: Process, batch: str, lasts: list[str | None]
) -> list[Heard]:
    path = f"/v1/batches/{batch}/events"
    return [await stack.enter_async_context(listening(gateway.http, path, last)) for last in lasts]


async def paused(gateway: Process) -> None:
    """Let no new call begin, so that the work cannot end before the fault."""
    assert (await gateway.http.post("/v1/pause", json={"reason": "a test"})).status_code == 202


async def resumed(gateway: Process) -> None:
    assert (await gateway.http.post("/v1/resume")).status_code == 202


async def test_streams_of_a_killed_gateway_go_on_at_another_one_without_a_gap(
    site: Site, lasting: Process, redis: Redis
) -> None:
    async with site.gateway() as first, AsyncExitStack() as stack:
        await paused(lasting)
        await submit(first, "killed")
        before = await listeners(stack, first, "killed", [None] * 20)
        await resumed(lasting)
        await before[0].until_kind("job.succeeded")
        await paused(lasting)
        first.command.kill()
        for heard in before:
            await heard.closed.wait()
        assert "batch.finished" not in before[0].kinds, "the batch was over too early"
        await resumed(lasting)
        after = await listeners(stack, lasting, "killed", [heard.ids[-1] for heard in before])
        for heard in after:
            await heard.until_kind("end")
        everything = await ids_of(redis, "killed")
        assert len(everything) > ITEMS
        assert [[*one.ids, *two.ids] for one, two in zip(before, after, strict=True)] == [everything] * 20
        assert not any("resync" in heard.kinds for heard in after)


async def test_200_listeners_have_every_event_once_over_a_restart_of_redis(
    site: Site, lasting: Process, redis: Redis
) -> None:
    async with AsyncExitStack() as stack:
        await paused(lasting)
        await submit(lasting, "restarted")
        all_heard = await listeners(stack, lasting, "restarted", [None] * 200)
        await resumed(lasting)
        await all_heard[0].until_kind("job.succeeded")
        await paused(lasting)
        await asyncio.to_thread(site.server.kill)
        kinds = list(all_heard[0].kinds)
        await asyncio.to_thread(site.server.start)
        assert "batch.finished" not in kinds, "the batch was over too early"

        async def serves() -> bool:
            return (await lasting.http.post("/v1/resume")).status_code == 202

        await eventually(serves)
        for heard in all_heard:
            await heard.until_kind("end")
    everything = await ids_of(redis, "restarted")
    assert [heard for heard in all_heard if heard.ids != everything or "resync" in heard.kinds] == []
    batch = (await lasting.http.get("/v1/batches/restarted")).json()
    assert (batch["state"], batch["counts"]["succeeded"]) == ("completed", ITEMS)
    entries = site.simulator.ledger(entries=True)["entries"]
    prompts = [entry["prompt"] for entry in entries if entry["prompt"].startswith("restarted")]
    assert sorted(prompts) == sorted(f"restarted {k}" for k in range(ITEMS))


async def swell(site: Site, redis: Redis, batch: str) -> None:
    """Make the pictures of a batch larger than the buffers of a connection."""
    members: Any = await redis.zrange(f"pixmill:members:default/{batch}", 0, -1)
    for uid in members:
        name = f"pixmill:item:{uid.decode()}"
        result = orjson.loads(await redis.hget(name, "result") or b"")
        image = result["images"][0]
        data = bytes(PADDED_BYTES)
        (site.directory / "images" / image["key"]).write_bytes(data)
        image |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        await redis.hset(name, "result", orjson.dumps(result))


async def test_an_archive_of_a_killed_gateway_breaks_off_and_a_retry_is_whole(
    site: Site, lasting: Process, redis: Redis
) -> None:
    async with site.gateway() as first, AsyncExitStack() as stack:
        await submit(first, "archived", 12)
        (heard,) = await listeners(stack, lasting, "archived", [None])
        await heard.until_kind("end")
        await swell(site, redis, "archived")
        address = "/v1/batches/archived/archive.zip"
        async with first.http.stream("GET", address) as answer:
            chunks = answer.aiter_bytes()
            await anext(chunks)
            first.command.kill()
            with pytest.raises(httpx2.TransportError):
                async for _ in chunks:
                    pass
    with zipfile.ZipFile(io.BytesIO((await lasting.http.get(address)).content)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2 + 12


async def half_sent(gateway: Process) -> asyncio.StreamWriter:
    """A request whose body does not end."""
    _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    key = gateway.http.headers["authorization"]
    head = f"POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\nauthorization: {key}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: 100\r\n\r\n{{".encode())
    await writer.drain()
    return writer


async def test_a_stop_ends_streams_and_answers_who_waits(site: Site, lasting: Process, redis: Redis) -> None:
    async with site.gateway() as gateway, AsyncExitStack() as stack:
        await paused(lasting)
        await submit(gateway, "stopped", 2)
        all_heard = await listeners(stack, gateway, "stopped", [None] * 5)
        slow = await half_sent(gateway)
        job = {"id": "waiter", "prompt": "a kettle"}
        waiting = asyncio.create_task(gateway.http.post("/v1/jobs", json=job, headers={"prefer": "wait=60"}))

        async def recorded() -> bool:
            return bool(await redis.exists("pixmill:item:default//waiter"))

        await eventually(recorded)
        assert await asyncio.to_thread(gateway.command.stop) == 0
        assert (await waiting).status_code == 202
        for heard in all_heard:
            await heard.closed.wait()
        assert not any("end" in heard.kinds for heard in all_heard)
        slow.close()
    await resumed(lasting)


def cpu_s(command: Command) -> float:
    fields = Path(f"/proc/{command.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_a_crowd_beyond_the_descriptors_jams_nobody(site: Site) -> None:
    if raise_limit() < CROWD + 500:
        pytest.skip(f"needs {CROWD} connections at once")
    async with site.gateway(shell=f"ulimit -n {DESCRIPTORS}") as gateway:
        port = int(gateway.url.rpartition(":")[2])
        writers = []
        for _ in range(CROWD):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /v1/me HTTP/1.1\r\nhost: localhost\r\nslow: ")
            writers.append(writer)
        codes: list[int] = []
        before_s = cpu_s(gateway.command)
        async with asyncio.timeout(30):
            while codes.count(200) < 5:
                answer = await gateway.http.get("/v1/me", headers={"connection": "close"})
                codes.append(answer.status_code)
                await asyncio.sleep(0.1)
        assert set(codes) <= {200, 503}
        assert cpu_s(gateway.command) - before_s < 1.0
        for writer in writers:
            writer.close()
        for _ in range(20):
            assert (await gateway.http.get("/v1/batches")).status_code == 200


async def test_no_answer_has_a_secret(site: Site, lasting: Process) -> None:
    begun = await lasting.http.post("/v1/session", json={"key": site.key})
    cookie = begun.headers["set-cookie"].partition(";")[0]
    site.secrets.append(cookie.partition("=")[2])
    job = {
        "id": "told",
        "prompt": "a kettle",
        "callback": {"url": "https://shop.example/done?t=planted-callback"},
    }
    wrong = [{"authorization": f"Bearer {site.key}x"}, {"cookie": f"{cookie}x", "authorization": ""}]
    answers = [
        await lasting.http.post("/v1/jobs", json={**job, "webhook": WEBHOOK, "api_key": KEY}),
        await lasting.http.post("/v1/jobs", json=job),
        await lasting.http.get("/v1/jobs/told"),
        await lasting.http.get("/v1/routes"),
        await lasting.http.get("/v1/quotas"),
        *[await lasting.http.get("/v1/me", headers=headers) for headers in wrong],
        await lasting.http.get(f"/v1/jobs/{site.key}"),
        await lasting.http.post("/v1/session", json={"key": site.key + "\x00"}),
    ]
    text = "".join(answer.text + str(answer.headers) for answer in answers)
    assert [secret for secret in site.secrets if secret in text] == []
    assert COOKIE not in text
