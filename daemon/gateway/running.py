"""Runs a gateway: as a process of its own, or beside the replica of `pixmill up`."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import structlog
from starlette.routing import Mount, Router
from starlette.types import ASGIApp

from daemon.accounts.routes import build_routes
from daemon.callbacks.signing import Webhooks
from daemon.gateway.app import create_app
from daemon.gateway.gateway import Gateway
from daemon.service import Running, freeze_what_stays, redis_of
from daemon.settings import Settings, SettingsError
from daemon.signals import unless_leaving, until_signal
from daemon.storage.object_store import ResultStore
from daemon.telemetry.health import health_app
from daemon.telemetry.http_metrics import HttpMetrics
from daemon.telemetry.metrics import ProcessMetrics
from daemon.worker.descriptors import fitting_callers, raise_limit
from providers.http.asgi import AsgiServer

log = structlog.get_logger(__name__)

SPARE_PORTS = 99  # beyond the default port, for several installations on one machine
HEAPS: Final = 2
_ARENA_MAX: Final = -8  # the number of that parameter in glibc (malloc.h)


@asynccontextmanager
async def beside(running: Running) -> AsyncIterator[str]:
    """Serve HTTP in the process of a replica; yields the address."""
    replica = running.replica
    metrics = HttpMetrics(replica.metrics.registry)
    gateway = Gateway(
        replica.settings,
        running.redis_url,
        replica.routes,
        replica.store,
        replica.webhooks,
        metrics,
        replica.metrics.count_received,
    )
    async with serving(gateway, fitting_callers(raise_limit(), replica.settings.worker.max_in_flight)) as url:
        yield url


@asynccontextmanager
async def alone(
    settings: Settings, redis_url: str, *, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[str]:
    """Serve HTTP without a worker; yields the address. Raises SettingsError, StorageError."""
    if not settings.routes:
        raise SettingsError(
            ["No route is configured, so no job could be accepted: add [routes.default] to pixmill.toml."]
        )
    process = ProcessMetrics()
    routes = build_routes(settings, environ, for_calls=False)
    store = ResultStore.open(settings.storage.url.reveal())
    webhooks = Webhooks.configured(settings, environ)
    gateway = Gateway(
        settings, redis_url, routes, store, webhooks, HttpMetrics(process.registry), process.count_received
    )
    health = AsgiServer(
        health_app(process, gateway.readiness, _nothing),
        settings.metrics.listen.host,
        settings.metrics.listen.port,
        spare_ports=0 if "listen" in settings.metrics.model_fields_set else SPARE_PORTS,
    )
    await _listening(health, "metrics.listen")
    try:
        async with serving(gateway, fitting_callers(raise_limit())) as url:
            yield url
    finally:
        await health.stop()
        await store.aclose()


@asynccontextmanager
async def serving(gateway: Gateway, most_connections: int) -> AsyncIterator[str]:
    """Serve the app at `gateway.listen`; yields the address. Raises SettingsError if it cannot be used."""
    settings = gateway.settings.gateway
    spare_ports = 0 if settings.listen.port == 0 or "listen" in settings.model_fields_set else SPARE_PORTS
    app: ASGIApp = create_app(gateway)
    if settings.path_prefix:
        app = Router([Mount(settings.path_prefix, app)])
    server = AsgiServer(
        app,
        settings.listen.host,
        settings.listen.port,
        spare_ports=spare_ports,
        most_connections=most_connections,
    )
    await gateway.start()
    try:
        await _listening(server, "gateway.listen")
        url = f"{server.url}{settings.path_prefix}"
        log.info("gateway started", url=url, most_connections=most_connections)
        yield url
    finally:
        await gateway.end_streams()
        await server.stop()
        await gateway.stop()


async def _listening(server: AsgiServer, setting: str) -> None:
    try:
        await server.start()
    except OSError as error:
        raise SettingsError([f"`{setting}`: {error.strerror}"]) from None


async def _nothing() -> None:
    pass


async def run_gateway(settings: Settings, greet: Callable[[str], None]) -> int:
    """`pixmill gateway` until a signal; returns 0. `greet` gets the address where HTTP is served."""
    limit_heaps()
    leaving = asyncio.create_task(until_signal())
    try:
        async with AsyncExitStack() as stack:
            url = await unless_leaving(
                leaving, stack.enter_async_context(alone(settings, redis_of(settings)))
            )
            if url:
                freeze_what_stays()
                greet(url)
                await leaving
    finally:
        leaving.cancel()
    return 0


def limit_heaps() -> None:
    """Let all threads share a few heaps, where the C library is glibc; to be called before threads begin.

    By default each thread keeps freed memory in a heap of its own, which made an archive take 20 MB more.
    """
    with suppress(OSError, AttributeError):  # another library, which has no such parameter
        ctypes.CDLL(None).mallopt(_ARENA_MAX, HEAPS)
