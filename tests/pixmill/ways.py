"""The ways of a client to an installation, and its two styles, behind one form: calls that are awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pixmill
from providers.simulator import Simulator, SimulatorSettings
from tests.sdks.shop import ENVIRON, MODEL, TENANT, open_shop

WAYS = ("redis", "gateway", "local")
STYLES = ("async", "sync")


@dataclass
class Producer:
    """A client, and the provider whose books show what was bought."""

    client: pixmill.Client | pixmill.SyncClient
    simulator: Simulator

    async def __call__(self, method: str, *given: Any, **named: Any) -> Any:
        """The result of a method; the events of a watch as a list."""
        call = getattr(self.client, method)
        if isinstance(self.client, pixmill.SyncClient):
            return await asyncio.to_thread(lambda: _whole(call(*given, **named)))
        made = call(*given, **named)
        return await made if inspect.isawaitable(made) else [each async for each in made]

    async def tasks(self, *given: Any, **named: Any) -> Any:
        """The results of tasks, by the method of this style."""
        style = "sync" if isinstance(self.client, pixmill.SyncClient) else "async"
        return await self(f"generate_batch_{style}", *given, **named)

    @property
    def bought(self) -> int:
        """The calls that the provider had."""
        return sum(self.simulator.ledger.calls_by_prompt().values())


def _whole(made: Any) -> Any:
    return list(made) if inspect.isgenerator(made) else made


@asynccontextmanager
async def producer(way: str, style: str, redis_url: str, folder: Path) -> AsyncIterator[Producer]:
    """A client of an installation that works; a prompt with "takes 1 s" takes that long, "forbidden" is refused."""
    if way == "local":
        fast = SimulatorSettings(latency_s=(0.0, 0.0), plain=True, timed_prompts=True)
        async with Simulator(fast) as simulator:
            config = folder / "pixmill.toml"
            config.write_text(LOCAL.format(folder=folder, base_url=simulator.base_url, model=MODEL))
            kind = pixmill.SyncClient if style == "sync" else pixmill.Client
            async with _opened(kind.local(config, data_dir=folder / "data")) as client:
                yield Producer(client, simulator)
        return
    async with open_shop(redis_url, folder) as shop:
        how: dict[str, Any] = {"key": shop.key} if way == "gateway" else {"tenant": TENANT}
        where = shop.url if way == "gateway" else redis_url
        client = pixmill.SyncClient(where, **how) if style == "sync" else pixmill.Client(where, **how)
        async with _opened(client):
            yield Producer(client, shop.simulator)


@asynccontextmanager
async def _opened(
    client: pixmill.Client | pixmill.SyncClient,
) -> AsyncIterator[pixmill.Client | pixmill.SyncClient]:
    if isinstance(client, pixmill.Client):
        async with client:
            yield client
        return
    await asyncio.to_thread(client.__enter__)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.close)


LOCAL = """
[storage]
url = "file://{folder}/pictures"
[credentials.main]
provider = "openai"
base_url = "{base_url}"
api_key_env = "PLANTED"
[routes.default]
credential = "main"
model = "{model}"
"""
__all__ = ["ENVIRON", "STYLES", "WAYS", "Producer", "producer"]
