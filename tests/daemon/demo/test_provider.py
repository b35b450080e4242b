"""The demo's provider is a process of its own, and ends with the demo, whatever ends that."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx2
import pytest

from daemon.demo.provider import DemoError, simulated_provider

ROOT = Path(__file__).parents[3]
OWNER = """
import asyncio
from daemon.demo.provider import simulated_provider

async def main():
    async with simulated_provider([]) as provider:
        print(provider.base_url, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def answers(base_url: str) -> bool:
    async with httpx2.AsyncClient(trust_env=False) as client:
        try:
            await client.get(base_url.removesuffix("/v1") + "/healthz")
        except httpx2.TransportError:
            return False
    return True


async def test_the_provider_enforces_its_options_and_shows_its_books() -> None:
    options = ("--images", "1/60s", "--plain", "--latency", "0-0")
    async with simulated_provider(options) as provider, httpx2.AsyncClient(trust_env=False) as client:
        for _ in range(2):
            await client.post(
                f"{provider.base_url}/images/generations",
                json={"model": "sim-1", "prompt": "a kettle"},
                headers={"Authorization": "Bearer k"},
            )
        books = await provider.ledger()
    assert books["statuses"] == {"200": 1, "429": 1}
    assert [call["prompt"] for call in books["entries"]] == ["a kettle", "a kettle"]
    assert not await answers(provider.base_url)
    with pytest.raises(DemoError, match="ended before the demo"):
        await provider.ledger()


async def test_a_provider_that_does_not_start_is_a_sentence() -> None:
    with pytest.raises(DemoError, match="does not start"):
        async with simulated_provider(("--images", "none")):
            pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_the_provider_ends_with_its_owner(number: signal.Signals) -> None:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert owner.stdout is not None
    base_url = (await owner.stdout.readline()).decode().strip()
    assert await answers(base_url)
    os.killpg(owner.pid, number)  # a terminal signals the whole group
    await owner.wait()
    async with asyncio.timeout(20):
        while await answers(base_url):
            await asyncio.sleep(0.02)
