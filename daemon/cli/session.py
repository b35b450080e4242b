"""What every command shares: the common options, the client they lead to, and how errors are told.

`command` turns `async def x(session, ...) -> int` into a function that typer understands: expected errors become
sentences on stderr, and the returned number the exit code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from daemon.cli.exits import INTERRUPTED, CommandError
from daemon.cli.output import Printer

if TYPE_CHECKING:
    from daemon.client import Client
    from daemon.settings import Settings
    from daemon.storage.object_store import ResultStore

PATIENCE_S = 60.0  # how long a watch waits for a Redis that does not answer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file; without it ./pixmill.toml, if there is one.")
]
RedisOption = Annotated[
    str | None, typer.Option("--redis-url", help="The Redis to use, such as redis://localhost:6379/0.")
]
PrefixOption = Annotated[str | None, typer.Option("--prefix", help="First part of every key (pixmill).")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Whose work is meant (default).")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")
]

P = ParamSpec("P")


class Session:
    """The common options of one call, and what follows from them."""

    def __init__(
        self,
        config: Path | None,
        redis_url: str | None,
        prefix: str | None,
        tenant: str | None,
        as_json: bool,
    ) -> None:
        self._config = config
        self._flags = {"redis.url": redis_url, "redis.prefix": prefix}
        self.given_tenant = tenant
        self.tenant = tenant or "default"
        self.as_json = as_json
        self.printer = Printer(as_json)

    @cached_property
    def settings(self) -> Settings:
        """The configuration of file, environment and flags; raises SettingsError."""
        from daemon.compat.aliases import alias_source
        from daemon.settings import load_settings

        return load_settings(self._config, overrides=self._flags, offers=[alias_source]).settings

    def client(self) -> Client:
        """A client of the configured Redis, or of the `pixmill up` that runs here; raises NotRunningError."""
        from daemon.client import Client

        settings = self.settings
        return Client.connect(
            settings.redis.url.reveal() if settings.redis.url else None,
            settings.redis.prefix,
            tenant=self.tenant,
            patience_s=PATIENCE_S,
            on_trouble=lambda _: self.printer.note("Redis does not answer; trying again. The work goes on."),
        )

    def store(self) -> ResultStore:
        """The configured object store."""
        from daemon.storage.object_store import ResultStore

        return ResultStore.open(self.settings.storage.url.reveal())

    def unknown(self, ident: str) -> CommandError:
        """The error for an id without a record."""
        return CommandError(
            f'Nothing is known of "{ident}" in tenant "{self.tenant}": it was never accepted here, or its record '
            "has ended. `pixmill list` shows what there is.",
            code="not_found",
        )


def command(
    function: Callable[Concatenate[Session, P], Coroutine[Any, Any, int]],
) -> Callable[..., None]:
    """The function for typer: its own parameters and the common options."""

    def run(
        *,
        config: ConfigOption = None,
        redis_url: RedisOption = None,
        prefix: PrefixOption = None,
        tenant: TenantOption = None,
        as_json: JsonOption = False,
        **own: Any,
    ) -> None:
        session = Session(config, redis_url, prefix, tenant, as_json)
        raise typer.Exit(_run(session, function, own))

    # Typer reads the signature: the function's own parameters, without the session, then the common ones.
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    common = [
        parameter
        for parameter in inspect.signature(run, eval_str=True).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    keyword = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in own]
    setattr(run, "__signature__", inspect.Signature([*keyword, *common]))  # noqa: B010 - unknown to type checkers
    run.__annotations__ = {}
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def _run(session: Session, function: Callable[..., Coroutine[Any, Any, int]], own: dict[str, Any]) -> int:
    import asyncio

    try:
        return asyncio.run(function(session, **own))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        from daemon.cli.failures import explained

        told = explained(error, lambda: session.settings.redis.url)
        if told is None:
            raise
        for sentence in str(told).splitlines():
            session.printer.error(sentence)
        if session.as_json:
            session.printer.document({"error": {"message": str(told), **told.details}})
        return told.exit_code
