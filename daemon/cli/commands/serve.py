"""Commands that keep running: `up`, `worker`, `gateway`, `mirror`, `simulator`. A service is imported at its start."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.broker.redis_cli import redis_cli
from daemon.cli.errors import words_of
from daemon.cli.importing import import_structlog, importing
from daemon.cli.options import ConfigOption, PrefixOption, RedisOption, one_of, spelled
from daemon.compat.aliases import alias_source
from daemon.settings import Settings, load_settings, masked_url, unshared_accounts
from pixmill.text import visible

if TYPE_CHECKING:
    from daemon.service import Running

LEVELS = one_of("debug", "info", "warning", "error")
LogOption = Annotated[str, typer.Option("--log-level", help="The least level that is logged.", **LEVELS)]
MetricsOption = Annotated[
    str | None, typer.Option("--metrics", help="host:port of /metrics, /healthz, /readyz.")
]


def up(
    config: ConfigOption = None,
    redis_url: RedisOption = None,
    prefix: PrefixOption = None,
    metrics: MetricsOption = None,
    log_level: LogOption = "warning",
) -> None:
    """Run everything in one process: a Valkey if no Redis is configured, and the simulator if no account is.

    Example:  pixmill up
    """
    import_structlog()
    from daemon.gateway.running import beside
    from daemon.service import run_up

    options = spelled(config, redis_url, prefix)
    _serve(
        lambda settings: run_up(settings, lambda running, url: banner(running, url, options), beside),
        config,
        redis_url,
        prefix,
        metrics,
        log_level,
    )


def worker(
    config: ConfigOption = None,
    redis_url: RedisOption = None,
    prefix: PrefixOption = None,
    metrics: MetricsOption = None,
    log_level: LogOption = "info",
) -> None:
    """Run one replica. Start as many as you like on one Redis: they share every quota.

    Example:  pixmill worker --config pixmill.toml
    """
    import_structlog()
    with importing():
        from daemon.service import run_worker

    _serve(run_worker, config, redis_url, prefix, metrics, log_level)


def gateway(
    config: ConfigOption = None,
    redis_url: RedisOption = None,
    prefix: PrefixOption = None,
    metrics: MetricsOption = None,
    log_level: LogOption = "info",
) -> None:
    """Serve HTTP: jobs, batches, live events and archives. Start as many as you like beside the workers.

    Example:  pixmill gateway --config pixmill.toml
    """
    import_structlog()
    from daemon.gateway.running import run_gateway

    def run(settings: Settings) -> Coroutine[Any, Any, int]:
        return run_gateway(
            settings, lambda url: print(visible(f"The page: {page_at(settings, url)}"), flush=True)
        )

    _serve(run, config, redis_url, prefix, metrics, log_level)


def mirror(
    postgres: Annotated[
        str | None,
        typer.Option(
            "--postgres",
            help="The database, such as postgresql://pixmill@localhost/pixmill. With a password, rather use "
            "PIXMILL_MIRROR__POSTGRES: others on this machine can read the words of a command.",
        ),
    ] = None,
    config: ConfigOption = None,
    redis_url: RedisOption = None,
    prefix: PrefixOption = None,
    log_level: LogOption = "info",
) -> None:
    """Copy jobs and batches into tables of a PostgreSQL, and keep them up to date. Nothing waits for it.

    Example:  pixmill mirror --postgres postgresql://pixmill@localhost/pixmill
    """
    import_structlog()
    try:
        with importing():
            from daemon.mirror.running import run_mirror
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        print("The mirror needs the extra `sql`: pip install 'pixmill-daemon[sql]'", file=sys.stderr)
        raise typer.Exit(2) from None
    _serve(run_mirror, config, redis_url, prefix, None, log_level, {"mirror.postgres": postgres})


def simulator(context: typer.Context) -> None:
    """Run the simulated provider, which enforces quotas as a real one does.

    Example:  pixmill simulator --port 9200 --images 20/10s --in-flight 8
    """
    from providers.simulator.__main__ import main

    raise typer.Exit(main(context.args))


def banner(running: Running, url: str, options: str = "") -> str:
    """The next steps after `pixmill up`, ready to paste; `options` are those with which another command finds it.

    `url` is where HTTP is served.
    """
    replica = running.replica
    lines = [
        "Pixmill is up.",
        f"  redis     {masked_url(running.redis_url)}",
        f"  http      {url}",
        f"  page      {page_at(replica.settings, url)}",
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
        "or from another terminal, in this directory:",
        f'  pixmill submit "a red kettle on a white table" --wait --out pictures{options}',
        "Ctrl-C stops; jobs that wait are kept.",
    ]
    return "\n".join(lines)


def page_at(settings: Settings, url: str) -> str:
    """The address of the page for people; `url` is where HTTP is served."""
    return f"{settings.gateway.public_url or url}/"


def _serve(
    run: Callable[[Settings], Coroutine[Any, Any, int]],
    config: Path | None,
    redis_url: str | None,
    prefix: str | None,
    metrics: str | None,
    log_level: str,
    more: Mapping[str, str | None] | None = None,
) -> None:
    import structlog
    import uvloop

    from daemon.service import EXPECTED_ERRORS
    from daemon.telemetry.logs import configure_logs
    from daemon.telemetry.tracing import start_tracing

    configure_logs(level=log_level)
    if (problem := start_tracing()) is not None:
        structlog.get_logger(__name__).warning("no traces are sent", problem=problem)
    overrides = {"redis.url": redis_url, "redis.prefix": prefix, "metrics.listen": metrics, **(more or {})}
    try:
        settings = load_settings(config, overrides=overrides, offers=[alias_source]).settings
        for sentence in unshared_accounts(settings):
            structlog.get_logger(__name__).warning(
                "calls of one account may exceed its limit", problem=sentence
            )
        left = uvloop.run(run(settings))
    except EXPECTED_ERRORS as error:
        print(visible(_sentence(error), lines=True), file=sys.stderr)
        raise typer.Exit(2) from None
    raise typer.Exit(1 if left else 0)


def _sentence(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    hint = "Start it in a directory that you may write to, or set `storage.url` and `redis.url`."
    return f"{words_of(error)} {hint}" if error.filename is not None else words_of(error)
