"""One process from start to signal: a replica, and what `pixmill up` puts beside it when nothing is configured."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, ResponseError

from daemon.connections import command_client
from daemon.embedded import EmbeddedRedis, EmbeddedRedisError, find_running
from daemon.loops import CONNECTION_FAULTS
from daemon.redis_cli import redis_cli
from daemon.redis_faults import in_words, needs_other_settings, passes
from daemon.replica import Replica
from daemon.results import ResultStore, StorageError
from daemon.routes import build_routes
from daemon.settings import Credential, Listen, Route, Settings, SettingsError, masked_url
from daemon.signals import unless_leaving, until_signal
from daemon.steps import Steps
from daemon.webhooks import Webhooks
from providers.errors import redact
from providers.simulator.server import Simulator
from providers.simulator.settings import Rate, SimulatorSettings

EXPECTED_ERRORS = (SettingsError, EmbeddedRedisError, StorageError, OSError)
DATA_DIR = Path(".pixmill")
REDIS_AGAIN_S = 1.0
SIMULATOR_KEY_ENV = "SIMULATOR_API_KEY"
# Tight enough to be seen at work, loose enough not to bore.
SIMULATOR_SETTINGS = SimulatorSettings(images=Rate(20, 10.0), in_flight=8, latency_s=(0.6, 1.4))
SIMULATOR_QUOTA: Mapping[str, object] = {"images": "20/10s", "in_flight": 8}


@dataclass(frozen=True, slots=True)
class Running:
    """What is up, for those who print it or use it."""

    replica: Replica
    redis_url: str
    simulator: Simulator | None


@asynccontextmanager
async def up(
    settings: Settings,
    *,
    data_dir: Path = DATA_DIR,
    environ: Mapping[str, str] = os.environ,
    simulator: SimulatorSettings = SIMULATOR_SETTINGS,
    simulator_quota: Mapping[str, object] = SIMULATOR_QUOTA,
    on_server: Callable[[EmbeddedRedis], None] = lambda _: None,
) -> AsyncIterator[Running]:
    """Everything in one process: an embedded Valkey where no Redis is configured, the simulator where no account is.

    `on_server` is told of that Valkey as soon as it runs, long before everything does.
    """
    embedded = await EmbeddedRedis.start(data_dir) if settings.redis.url is None else None
    redis_url = embedded.url if embedded is not None else _url_of(settings)
    provider = None
    try:
        if embedded is not None:
            on_server(embedded)
        if not settings.credentials:
            provider = Simulator(simulator)
            await provider.start()
            settings = _simulated(settings, provider.base_url, simulator_quota)
            environ = {**environ, SIMULATOR_KEY_ENV: "simulated"}
        async with _replica(settings, redis_url, environ) as replica:
            yield Running(replica, redis_url, provider)
    finally:
        if provider is not None:
            await provider.stop()
        if embedded is not None:
            await embedded.stop()


@asynccontextmanager
async def worker(
    settings: Settings, redis_url: str, *, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Running]:
    """One replica on a Redis that is there already."""
    if not settings.routes:
        raise SettingsError(
            ["No route is configured, so there is nothing to work on: add [routes.default] to pixmill.toml."]
        )
    async with _replica(settings, redis_url, environ) as replica:
        yield Running(replica, redis_url, None)


@asynccontextmanager
async def _replica(settings: Settings, redis_url: str, environ: Mapping[str, str]) -> AsyncIterator[Replica]:
    webhooks = Webhooks.configured(settings, environ)
    store = ResultStore.open(settings.storage.url.reveal())
    replica = Replica(settings, redis_url, build_routes(settings, environ), store, webhooks=webhooks)
    try:
        await replica.start()
        yield replica
    finally:
        await replica.stop()


async def run_up(settings: Settings) -> int:
    """`pixmill up` until a signal; returns how many runs were handed over unfinished."""
    if _is_taken(settings.metrics.listen):
        settings = _with_free_metrics_port(settings)
    servers: list[EmbeddedRedis] = []
    # Before anything is started: a signal that nobody hears would end us and leave the server without an owner.
    leaving = asyncio.create_task(until_signal(lambda: _end_at_once(servers)))
    try:
        async with AsyncExitStack() as stack:
            everything = stack.enter_async_context(up(settings, on_server=servers.append))
            running = await unless_leaving(leaving, everything)
            if running is None:
                return 0
            await _serve(running, leaving)
            print("Stopping: what runs is finished first. A second Ctrl-C leaves at once.", flush=True)
    finally:
        leaving.cancel()
    return running.replica.left


async def _serve(running: Running, leaving: asyncio.Task[None]) -> None:
    """Until a signal; raises SettingsError when Redis refuses us."""
    telling = asyncio.create_task(_tell_when_redis_answers(running))
    try:
        await asyncio.wait((leaving, telling), return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            await telling  # it may have been refused
            await leaving
    finally:
        telling.cancel()


async def run_worker(settings: Settings) -> int:
    """`pixmill worker` until a signal; returns how many runs were handed over unfinished."""
    redis_url = settings.redis.url.reveal() if settings.redis.url is not None else find_running(DATA_DIR)
    if redis_url is None:
        raise SettingsError(
            [
                "No Redis is configured, and no `pixmill up` runs in this directory: set redis.url in pixmill.toml, "
                "PIXMILL_REDIS__URL or --redis-url; `pixmill up` brings a Redis of its own."
            ]
        )
    async with worker(settings, redis_url) as running:
        await until_signal()
    return running.replica.left


def banner(running: Running) -> str:
    """What somebody who has just started `pixmill up` needs next, ready to paste."""
    replica = running.replica
    lines = [
        "Pixmill is up.",
        f"  redis     {masked_url(running.redis_url)}",
        f"  pictures  {masked_url(replica.settings.storage.url.reveal())}",
        f"  metrics   {replica.metrics_url}/metrics",
    ]
    if running.simulator is not None:
        lines.append(
            f"  provider  the simulator at {running.simulator.url}: nothing is paid, pictures are drawn"
        )
    lines += [
        "Send a job from any language:",
        f"  {redis_cli(running.redis_url)} XADD {shlex.quote(replica.keys.jobs)} '*' data "
        + """'{"id":"hello-1","prompt":"a red kettle on a white table"}'""",
        "or from another terminal:",
        '  pixmill submit "a red kettle on a white table" --wait --out pictures',
        "Ctrl-C stops; jobs that wait are kept.",
    ]
    return "\n".join(lines)


async def _tell_when_redis_answers(running: Running) -> None:
    """The banner, once it is true; raises SettingsError when Redis will never serve us as we are configured."""
    where = masked_url(running.redis_url)
    prefix = running.replica.settings.redis.prefix
    client = command_client(running.redis_url, prefix)
    waiting = False
    try:
        while (trouble := await _trouble(client, prefix, where)) is not None:
            if not waiting:
                print(f"{trouble}; waiting for it. Ctrl-C stops.", file=sys.stderr, flush=True)
            waiting = True
            await asyncio.sleep(REDIS_AGAIN_S)
    finally:
        await client.aclose()
    print(banner(running), flush=True)


async def _trouble(client: Redis, prefix: str, where: str) -> str | None:
    """What keeps Redis from serving us now; raises SettingsError for what will not pass."""
    try:
        await client.ping()
        await Steps(client, prefix)("probe")
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise SettingsError(
            [f"{where} refuses us ({redact(str(error))}): check user, password and database in redis.url."]
        ) from None
    except CONNECTION_FAULTS as error:
        return f"{where} does not answer ({redact(str(error))})"
    except ResponseError as error:
        if needs_other_settings(error) or not passes(error):
            raise SettingsError([f"{where} cannot be used like this. {in_words(error)}"]) from None
        return f"{where} does not serve us ({in_words(error)})"
    return None


def _end_at_once(servers: Iterable[EmbeddedRedis]) -> None:
    for server in servers:
        server.end_at_once()


def _is_taken(listen: Listen) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError:
            return True
    return False


def _with_free_metrics_port(settings: Settings) -> Settings:
    """The same settings with a metrics port of the system's choice: a second `up` on one machine just works."""
    listen = Listen(f"{settings.metrics.listen.host}:0")
    return settings.model_copy(update={"metrics": settings.metrics.model_copy(update={"listen": listen})})


def _simulated(settings: Settings, base_url: str, quota: Mapping[str, object]) -> Settings:
    """The settings with the simulator as the only account; every configured or default route leads to it."""
    route = Route(credential="simulator", model="simulated", quotas=["simulator"])
    account = Credential(provider="openai", base_url=base_url, api_key_env=SIMULATOR_KEY_ENV)
    return settings.model_copy(
        update={
            "credentials": {"simulator": account},
            "quotas": {"simulator": dict(quota)},
            "routes": dict.fromkeys(("default", *settings.routes), route),
        }
    )


def _url_of(settings: Settings) -> str:
    assert settings.redis.url is not None  # noqa: S101 - the caller has looked
    return settings.redis.url.reveal()
