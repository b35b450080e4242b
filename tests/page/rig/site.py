"""All of Pixmill for the tests of the page: Valkey, simulator, worker and gateway, each of which a test may stop."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from redis.asyncio import Redis

from daemon.gateway.callers.keys_file import add_key
from daemon.gateway.callers.scopes import Scope
from daemon.gateway.running import alone
from daemon.service import worker
from daemon.settings import Settings
from providers.simulator import Simulator, SimulatorSettings
from tests.daemon.harness import eventually
from tests.daemon.live import Decide, working
from tests.servers import RedisServer, free_port

ENVIRON = {"PLANTED": "sk-planted-page"}
QUICK = {"requests": "500/s", "in_flight": 32}
ENDS_S = 60.0
BOSS = "boss"
SCOPES: Mapping[str, tuple[str, Scope]] = {
    BOSS: ("default", "admin"),
    "maker": ("default", "submit"),
    "reader": ("default", "read"),
    "stranger": ("other", "submit"),
}


@dataclass
class Site:
    """`http` is a caller who may do everything. `keys` has a key for each name of SCOPES, or nothing."""

    settings: Settings
    server: RedisServer
    simulator: Simulator
    url: str
    http: httpx2.AsyncClient
    keys: Mapping[str, str]
    _gateway: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start_gateway(self) -> None:
        await self._gateway.enter_async_context(alone(self.settings, self.server.url, environ=ENVIRON))

    async def stop_gateway(self) -> None:
        await self._gateway.aclose()

    async def submit(self, ident: str, items: int | Sequence[Mapping[str, Any]], **head: Any) -> None:
        """Start a batch of so many items `i0`, `i1`, ..., or of these items."""
        if isinstance(items, int):
            items = [{"id": f"i{k}", "prompt": f"{ident} {k}"} for k in range(items)]
        reply = await self.http.post("/v1/batches", json={"id": ident, "items": list(items), **head})
        assert reply.status_code == 202, reply.text

    async def batch(self, ident: str) -> dict[str, Any]:
        record: dict[str, Any] = (await self.http.get(f"/v1/batches/{ident}")).json()
        return record

    async def ended(self, ident: str, within_s: float = ENDS_S) -> dict[str, Any]:
        """The record of a batch, once it has ended."""

        async def look() -> dict[str, Any] | None:
            record = await self.batch(ident)
            return None if record["state"] == "running" else record

        record: dict[str, Any] = await eventually(look, within_s)
        return record

    async def pause(self, path: str = "v1/pause", reason: str = "the invoice is open") -> None:
        """Pause the fleet, or what `path` names: what waits stays as it is."""
        reply = await self.http.post(f"/{path}", json={"reason": reason})
        assert reply.status_code == 202, reply.text

    async def resume(self, path: str = "v1/resume") -> None:
        reply = await self.http.post(f"/{path}", json={})
        assert reply.status_code == 202, reply.text


@asynccontextmanager
async def open_site(
    *,
    quota: Mapping[str, object] = QUICK,
    latency_s: tuple[float, float] = (0.02, 0.05),
    with_keys: bool = False,
    store_url: str | None = None,
    prefix: str = "",
    plain: bool = True,
    decide: Decide | None = None,
) -> AsyncIterator[Site]:
    """Everything in this process but Valkey; a prompt with "takes 4 s" takes that long at the provider.

    With `decide` no worker makes pictures: each item ends at once, as that says.
    """
    folder = Path(tempfile.mkdtemp(prefix="pixmill-page-"))
    server = RedisServer(persistent=True, options=("--appendfsync", "always"))
    try:
        keys = {
            name: add_key(folder / "keys.json", name, tenant, frozenset({scope}))
            for name, (tenant, scope) in (SCOPES if with_keys else {}).items()
        }
        simulated = SimulatorSettings(latency_s=latency_s, plain=plain, timed_prompts=True)
        async with Simulator(simulated) as simulator:
            port = free_port()
            settings = Settings.model_validate(
                {
                    "redis": {"url": server.url},
                    # After a restart of Redis nothing starts for the time of a lease.
                    "worker": {"lease": "1s", "drain_timeout": "1s"},
                    "storage": {"url": store_url or f"file://{folder / 'pictures'}"},
                    "metrics": {"listen": "127.0.0.1:0"},
                    "gateway": {
                        "listen": f"127.0.0.1:{port}",
                        "keys_file": folder / "keys.json" if with_keys else None,
                        "path_prefix": prefix,
                    },
                    "credentials": {
                        "openai-main": {
                            "provider": "openai",
                            "base_url": simulator.base_url,
                            "api_key_env": "PLANTED",
                        }
                    },
                    "quotas": {"openai-main": dict(quota)},
                    "routes": {
                        "default": {"credential": "openai-main", "model": "sim-1", "quotas": ["openai-main"]}
                    },
                }
            )
            url = f"http://127.0.0.1:{port}{prefix}"
            headers = {"authorization": f"Bearer {keys[BOSS]}"} if with_keys else {}
            async with (
                httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as http,
                _working(settings, server.url, decide),
            ):
                site = Site(settings, server, simulator, url, http, keys)
                await site.start_gateway()
                try:
                    yield site
                finally:
                    await site.stop_gateway()
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _working(settings: Settings, redis_url: str, decide: Decide | None) -> AsyncIterator[None]:
    if decide is None:
        async with worker(settings, redis_url, environ=ENVIRON):
            yield
        return
    async with Redis.from_url(redis_url) as redis, working(redis, decide):
        yield
