"""A gateway that is killed in the middle of a submit leaves a batch that ends, and that a repeat finds."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from redis.asyncio import Redis

from daemon.maintenance.resumer import Resumer
from daemon.queue.outcomes import Succeeded
from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_batches import LINES, batch, lines
from tests.daemon.harness import Installation, eventually
from tests.servers import RedisServer, free_port

CONFIG = """
[redis]
url = "{redis}"
[storage]
url = "file://{store}"
[metrics]
listen = "127.0.0.1:0"
[gateway]
listen = "127.0.0.1:{port}"
[credentials.main]
provider = "openai"
api_key_env = "PLANTED"
[routes.default]
credential = "main"
model = "gpt-image-1"
"""
COUNT = 5000
STARTS_S = 60.0  # on a busy machine
BODY = lines({"id": "b1"}, *batch("b1", COUNT)["items"])


@dataclass
class Process:
    """A gateway in a process of its own."""

    process: asyncio.subprocess.Process
    url: str


@asynccontextmanager
async def gateway_process(redis_url: str, directory: Path) -> AsyncIterator[Process]:
    port = free_port()
    file = directory / "pixmill.toml"
    file.write_text(CONFIG.format(redis=redis_url, port=port, store=directory))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon", "gateway", "--config", str(file)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PLANTED": "k"},
    )
    started = Process(process, f"http://127.0.0.1:{port}")
    try:
        async with httpx2.AsyncClient(base_url=started.url) as http:

            async def serves() -> bool:
                with suppress(httpx2.HTTPError):
                    return (await http.get("/v1/batches")).status_code == 200
                return False

            await eventually(serves, STARTS_S)
        yield started
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def kill_while_it_accepts(started: Process, installation: Installation) -> None:
    """Send a batch, and kill the gateway as soon as the batch is known."""
    async with httpx2.AsyncClient(base_url=started.url, timeout=60) as http:
        sending = asyncio.create_task(http.post("/v1/batches", content=BODY, headers=LINES))
        while not await installation.group("default/b1"):
            assert not sending.done(), sending.result().text
            await asyncio.sleep(0)
        started.process.kill()
        with pytest.raises(httpx2.HTTPError):
            await sending


async def make_all(installation: Installation) -> None:
    while items := await installation.claim(200):
        await asyncio.gather(*(installation.queue.settle(item, Succeeded({"images": []})) for item in items))


async def test_a_batch_whose_gateway_was_killed_ends_whole(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    installation = Installation(redis)
    async with gateway_process(redis_server.url, tmp_path) as started:
        await kill_while_it_accepts(started, installation)
    assert await installation.redis.zcard(installation.keys.members("default/b1")) < COUNT
    resumer = Resumer(redis, installation.keys.prefix, installation.acceptor)
    assert await resumer.resume() == 0, "it may still be alive"
    assert await resumer.resume(age_s=0) == 5
    await make_all(installation)
    group = await installation.group("default/b1")
    assert (group["state"], group["total"], group["succeeded"]) == ("completed", str(COUNT), str(COUNT))
    assert await installation.redis.keys("pixmill:accepting*") == []
    assert (await installation.kinds()).count("job.rejected") == 0


async def test_a_repeat_to_another_gateway_completes_the_same_batch(
    quiet_door: Door, redis_server: RedisServer, tmp_path: Path
) -> None:
    installation = quiet_door.installation
    async with gateway_process(redis_server.url, tmp_path) as started:
        await kill_while_it_accepts(started, installation)
    again = await quiet_door.http.post("/v1/batches", content=BODY, headers=LINES)
    assert (again.status_code, again.json()["total"]) == (202, COUNT)
    assert await installation.redis.zcard(installation.keys.members("default/b1")) == COUNT
    assert await installation.redis.keys("pixmill:accepting*") == []
    assert len(await installation.redis.keys("pixmill:item:*")) == COUNT
