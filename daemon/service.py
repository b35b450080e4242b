"""Runs one process until a signal: a replica, and for `pixmill up` also a Redis and a simulated provider."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import structlog
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, ResponseError

from daemon.accounts.routes import build_routes
from daemon.broker.embedded import EmbeddedRedis, EmbeddedRedisError, find_running
from daemon.callbacks.signing import Webhooks
from daemon.replica import Replica
from daemon.settings import Credential, Route, Settings, SettingsError, masked_url
from daemon.signals import unless_leaving, until_signal
from daemon.storage.object_store import ResultStore, StorageError
from daemon.telemetry.streams import Unbroken
from daemon.worker.descriptors import fitting_slots, raise_limit
from pixmill.broker.connect import command_client
from pixmill.broker.errors import CONNECTION_FAULTS, in_words, lost, never_works, passes
from pixmill.redaction import redact
from pixmill.text import visible

if TYPE_CHECKING:
    from providers.simulator import Simulator

log = structlog.get_logger(__name__)

EXPECTED_ERRORS = (SettingsError, EmbeddedRedisError, StorageError, OSError)
DATA_DIR = Path(".pixmill")
REDIS_AGAIN_S = 1.0
GC_THRESHOLD = 10_000  # more objects made than freed since the last look of the garbage collector
SIMULATOR_KEY_ENV = "SIMULATOR_API_KEY"
SIMULATOR_ENVIRON: Mapping[str, str] = {SIMULATOR_KEY_ENV: "simulated"}  # any key is served
# Tight enough to show the limiter at work, loose enough to finish soon.
SIMULATOR_QUOTA: Mapping[str, object] = {"images": "20/10s", "in_flight": 8}


@dataclass(frozen=True, slots=True)
class Running:
    """The process that is up."""

    replica: Replica
    redis_url: str
    simulator: Simulator | None


@asynccontextmanager
async def up(
    settings: Settings,
    *,
    data_dir: Path = DATA_DIR,
    environ: Mapping[str, str] = os.environ,
    on_server: Callable[[EmbeddedRedis], None] = lambda _: None,
) -> AsyncIterator[Running]:
    """Run everything in one process: an embedded Valkey if no Redis is configured, the simulator if no account is.

    `on_server` gets that Valkey as soon as it runs, long before the rest.
    """
    embedded = await EmbeddedRedis.start(data_dir) if settings.redis.url is None else None
    redis_url = embedded.url if embedded is not None else settings.redis.url.reveal()  # type: ignore[union-attr]  # one is
    provider = None
    try:
        if embedded is not None:
            on_server(embedded)
        if not settings.credentials:
            provider = _simulator()
            await provider.start()
            settings = simulated(settings, provider.base_url, SIMULATOR_QUOTA)
            environ = {**environ, **SIMULATOR_ENVIRON}
        # An embedded server loses writes by a power cut, which ends all its replicas too: they are on this machine.
        async with _replica(settings, redis_url, environ, calm=embedded is None) as replica:
            yield Running(replica, redis_url, provider)
    finally:
        if provider is not None:
            await provider.stop()
        if embedded is not None:
            await embedded.stop()


def _simulator() -> Simulator:
    """A simulator that enforces SIMULATOR_QUOTA."""
    # A worker has no use for it, and it brings its pictures and its server along.
    from providers.simulator.server import Simulator
    from providers.simulator.settings import Rate, SimulatorSettings

    return Simulator(SimulatorSettings(images=Rate(20, 10.0), in_flight=8, latency_s=(0.6, 1.4)))


@asynccontextmanager
async def worker(
    settings: Settings, redis_url: str, *, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Running]:
    """Run one replica on an existing Redis."""
    if not settings.routes:
        raise SettingsError(
            ["No route is configured, so there is nothing to work on: add [routes.default] to pixmill.toml."]
        )
    async with _replica(settings, redis_url, environ) as replica:
        yield Running(replica, redis_url, None)


@asynccontextmanager
async def _replica(
    settings: Settings, redis_url: str, environ: Mapping[str, str], *, calm: bool = True
) -> AsyncIterator[Replica]:
    settings = _fitted(settings)
    webhooks = Webhooks.configured(settings, environ)
    store = ResultStore.open(settings.storage.url.reveal())
    routes = build_routes(settings, environ)
    replica = Replica(settings, redis_url, routes, store, webhooks, calm=calm)
    try:
        await replica.start()
        yield replica
    finally:
        await replica.stop()


async def run_up(
    settings: Settings,
    banner: Callable[[Running, str], str],
    front: Callable[[Running], AbstractAsyncContextManager[str]],
) -> int:
    """`pixmill up` until a signal; returns how many runs were handed over unfinished.

    `front` serves HTTP beside the replica, and yields its address. `banner` is printed when Redis serves us.
    """
    servers: list[EmbeddedRedis] = []

    def end_at_once() -> None:
        for server in servers:
            server.end_at_once()

    async def greet(running: Running) -> None:
        async with front(running) as url:
            freeze_what_stays()
            try:
                await _greet_when_redis_answers(running, lambda running: banner(running, url))
            except asyncio.CancelledError:
                _say(
                    "Stopping: running items are finished first. A second Ctrl-C leaves at once.", sys.stdout
                )
                raise

    return await _until_signal(up(settings, on_server=servers.append), greet, end_at_once)


async def run_worker(settings: Settings) -> int:
    """`pixmill worker` until a signal; returns how many runs were handed over unfinished."""
    redis_url = redis_of(settings)

    async def run(running: Running) -> None:
        freeze_what_stays()
        await _refusal(running.replica)

    return await _until_signal(worker(settings, redis_url), run)


def redis_of(settings: Settings) -> str:
    """The configured Redis, or that of the `pixmill up` which runs here; raises SettingsError without one."""
    redis_url = settings.redis.url.reveal() if settings.redis.url is not None else find_running(DATA_DIR)
    if redis_url is None:
        raise SettingsError(
            [
                "No Redis is configured, and no `pixmill up` runs in this directory: set redis.url in pixmill.toml, "
                "PIXMILL_REDIS__URL or --redis-url; `pixmill up` brings a Redis of its own."
            ]
        )
    return redis_url


async def _until_signal(
    process: AbstractAsyncContextManager[Running],
    meanwhile: Callable[[Running], Coroutine[Any, Any, None]],
    on_leave: Callable[[], None] = lambda: None,
) -> int:
    """Run a process until a signal, or an error of `meanwhile`; returns how many runs were handed over unfinished."""
    # Handle signals before any start: an unhandled one would end us and leave what was started without an owner.
    leaving = asyncio.create_task(until_signal(on_leave))
    try:
        async with AsyncExitStack() as stack:
            running = await unless_leaving(leaving, stack.enter_async_context(process))
            if running is None:
                return 0
            await unless_leaving(leaving, meanwhile(running))
    finally:
        leaving.cancel()
    return running.replica.left


def freeze_what_stays() -> None:
    """Let the garbage collector pass over what was imported and built, which lives as long as this process.

    A walk through all of it holds the event loop for about 50 ms, and would come every few thousand items. Runs leave
    few cycles behind, so the collector may also come less often than by default. The start itself leaves many: so this
    is called once it is over.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def _greet_when_redis_answers(running: Running, banner: Callable[[Running], str]) -> None:
    """Print the banner when Redis serves us; raises SettingsError when Redis will never serve us as configured."""
    where = masked_url(running.redis_url)
    prefix = running.replica.settings.redis.prefix
    client = command_client(running.redis_url, prefix)
    waiting = False
    try:
        while (trouble := await _trouble(client, running.replica, where)) is not None:
            if not waiting:
                _say(f"{trouble}; waiting for it. Ctrl-C stops.", sys.stderr)
            waiting = True
            await asyncio.sleep(REDIS_AGAIN_S)
    finally:
        await client.aclose()
    _say(banner(running), sys.stdout)
    await _refusal(running.replica)


def _say(text: str, stream: TextIO) -> None:
    print(visible(text, lines=True), file=Unbroken(stream), flush=True)


async def _trouble(client: Redis, replica: Replica, where: str) -> str | None:
    """The reason why Redis does not serve us now, or None; raises SettingsError if it will not pass."""
    try:
        await client.ping()
        await replica.probe.write()
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise SettingsError(
            [f"{where} refuses us ({redact(str(error))}): check user, password and database in redis.url."]
        ) from None
    except CONNECTION_FAULTS as error:
        return f"{where} does not answer ({lost(error)})"
    except ResponseError as error:
        if never_works(error) or not passes(error):
            raise SettingsError([f"{where} cannot be used like this. {in_words(error)}"]) from None
        return f"{where} does not serve us ({in_words(error)})"
    if replica.probe.refused.is_set():
        raise SettingsError([str(replica.probe.trouble)])
    return None


async def _refusal(replica: Replica) -> None:
    """Wait for ever, or raise SettingsError once Redis has the records of a newer version."""
    await replica.probe.refused.wait()
    raise SettingsError([str(replica.probe.trouble)])


def _fitted(settings: Settings) -> Settings:
    """The settings with as many worker slots as this process has descriptors for. Raises SettingsError for none."""
    worker = settings.worker
    slots, reason = fitting_slots(worker.max_in_flight, raise_limit())
    if reason is None:
        return settings
    log.warning("too few file descriptors", problem=reason)
    return settings.model_copy(update={"worker": worker.model_copy(update={"max_in_flight": slots})})


def simulated(settings: Settings, base_url: str, quota: Mapping[str, object]) -> Settings:
    """The settings with the simulator as the only account; every configured or default route leads to it."""
    route = Route(credential="simulator", model="simulated", quotas=["simulator"])
    named = ("default", settings.gateway.slide_route, settings.gateway.studio_route, *settings.routes)
    account = Credential(provider="openai", base_url=base_url, api_key_env=SIMULATOR_KEY_ENV)
    return settings.model_copy(
        update={
            "credentials": {"simulator": account},
            "quotas": {"simulator": dict(quota)},
            "routes": dict.fromkeys(named, route),
        }
    )
