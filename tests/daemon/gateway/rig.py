"""A gateway on a real port, with an HTTP client; its worker, where there is one, runs beside the test."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from redis.asyncio import Redis

from daemon.gateway.app import create_app
from daemon.gateway.gateway import Gateway
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from daemon.telemetry.http_metrics import HttpMetrics
from daemon.telemetry.metrics import ProcessMetrics
from providers.http.asgi import AsgiServer
from tests.daemon.gateway.document import documented
from tests.daemon.harness import Installation
from tests.daemon.live import Decide, by_prompt, working

# A gateway is plain HTTP: its client needs no authorities, and reading them takes longer than most tests.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Door:
    """The gateway, its address and a client of it. `installation` works on what it accepts, if a worker runs."""

    gateway: Gateway
    url: str
    http: httpx2.AsyncClient
    installation: Installation
    store: ResultStore


def gateway_settings(redis_url: str, **gateway: Any) -> Settings:
    """The settings of a gateway with its store in memory."""
    return Settings.model_validate(
        {"redis": {"url": redis_url}, "storage": {"url": "memory://"}, "gateway": gateway}
    )


@asynccontextmanager
async def open_door(
    redis: Redis,
    redis_url: str,
    *,
    decide: Decide | None = by_prompt,
    routes: tuple[str, ...] = ("default",),
    store_dir: Path | None = None,
    store_url: str = "memory://",
    cap: int | None = None,
    headers: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Door]:
    """A gateway that serves; `decide` is how its worker ends items, None for no worker. `settings` are [gateway]'s."""
    configured = gateway_settings(redis_url, **settings)
    if cap is not None:
        worker = configured.worker.model_copy(update={"max_backlog_per_tenant": cap})
        configured = configured.model_copy(update={"worker": worker})
    store = ResultStore.open(f"file://{store_dir}" if store_dir else store_url)
    process = ProcessMetrics()
    if decide is None:
        async with _served(Installation(redis, routes=routes), configured, store, process, headers) as door:
            yield door
        return
    async with (
        working(redis, decide, routes=routes) as installation,
        _served(installation, configured, store, process, headers) as door,
    ):
        yield door


@asynccontextmanager
async def _served(
    installation: Installation,
    settings: Settings,
    store: ResultStore,
    process: ProcessMetrics,
    headers: Mapping[str, str] | None,
) -> AsyncIterator[Door]:
    assert settings.redis.url is not None
    gateway = Gateway(
        settings,
        settings.redis.url.reveal(),
        installation.routes,
        store,
        installation.webhooks,
        HttpMetrics(process.registry),
        process.count_received,
    )
    server = AsgiServer(create_app(gateway))
    await gateway.start()
    await server.start()
    async with httpx2.AsyncClient(
        base_url=server.url,
        headers=dict(headers or {}),
        timeout=30,
        verify=NO_AUTHORITIES,
        event_hooks={"response": [documented.check]},
    ) as http:
        try:
            yield Door(gateway, server.url, http, installation, store)
        finally:
            await gateway.end_streams()
            await server.stop()
            await gateway.stop()


def refusal(answer: httpx2.Response) -> tuple[int, str, str | None]:
    """The status of a refusal, its code and its field."""
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"], answer.json().get("field")
