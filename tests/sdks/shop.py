"""All of Pixmill on one Redis, with a key for its gateway: what a client with a changed `base_url` talks to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from daemon.gateway.callers.keys_file import add_key
from daemon.gateway.running import alone, beside
from daemon.service import up
from daemon.settings import Settings
from providers.simulator import Simulator, SimulatorSettings

TENANT = "shop"
MODEL = "sim-1"
ENVIRON = {"PLANTED": "sk-planted"}


@dataclass
class Shop:
    """The gateway's address and a key of it; the simulator sells the pictures, and has the books."""

    url: str
    key: str
    simulator: Simulator
    settings: Settings
    redis_url: str

    @property
    def account(self) -> dict[str, Any]:
        """Where a vendor's SDK is sent."""
        return self.through(self.url)

    @property
    def port(self) -> int:
        return _port(self.url)

    def calls(self, fields: Mapping[str, Any]) -> int:
        """The calls that the provider had for that prompt."""
        return self.simulator.ledger.calls_by_prompt().get(fields["prompt"], 0)

    def through(self, url: str) -> dict[str, Any]:
        """The same account behind a proxy at `url`."""
        return {"base_url": f"{url}/v1", "api_key": self.key}

    @asynccontextmanager
    async def another_gateway(self) -> AsyncIterator[int]:
        """A second gateway; yields its port."""
        async with alone(self.settings, self.redis_url, environ=ENVIRON) as url:
            yield _port(url)


@asynccontextmanager
async def open_shop(redis_url: str, folder: Path) -> AsyncIterator[Shop]:
    """A worker and a gateway in this process; a prompt with "takes 1 s" takes that long at the provider."""
    async with (
        Simulator(SimulatorSettings(latency_s=(0.0, 0.0), plain=True, timed_prompts=True)) as simulator,
        _served(redis_url, folder, simulator) as shop,
    ):
        yield shop


@asynccontextmanager
async def _served(redis_url: str, folder: Path, simulator: Simulator) -> AsyncIterator[Shop]:
    keys_file = folder / "keys.json"
    key = add_key(keys_file, "shop", TENANT, frozenset({"submit"}))
    settings = Settings.model_validate(
        {
            "redis": {"url": redis_url},
            "storage": {"url": f"file://{folder / 'pictures'}"},
            "metrics": {"listen": "127.0.0.1:0"},
            "gateway": {"listen": "127.0.0.1:0", "keys_file": keys_file},
            "credentials": {
                "main": {"provider": "openai", "base_url": simulator.base_url, "api_key_env": "PLANTED"}
            },
            "routes": {"default": {"credential": "main", "model": MODEL}},
        }
    )
    async with (
        up(settings, data_dir=folder, environ=ENVIRON) as running,
        beside(running) as url,
    ):
        yield Shop(url, key, simulator, settings, redis_url)


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
