"""Shared by all commands: the common options, the client that they name, and the report of errors.

`command` turns `async def x(session, ...) -> int` into a function for typer: an expected error becomes a sentence
on stderr, and the returned number the exit code.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import typer
from redis.exceptions import RedisError

from daemon.cli.errors import INTERRUPTED, CommandError, explained
from daemon.cli.options import ConfigOption, JsonOption, PrefixOption, RedisOption, TenantOption, spelled
from daemon.cli.output import Printer
from daemon.compat.aliases import alias_source
from daemon.queue.dead_letters import DeadLetters
from daemon.settings import Settings, load_settings
from daemon.settings.pace import with_pace_of
from pixmill.client import Client, NotRunningError
from pixmill.records.records import View

if TYPE_CHECKING:
    from daemon.storage.object_store import ResultStore

DEAD_LOOKED_AT = 100  # the newest; each may be as large as an entry
LOOK_S = 2.0  # how long a plan waits for the quotas of the fleet
PATIENCE_S = 60.0  # how long a watch waits for a Redis that does not answer

P = ParamSpec("P")


@dataclass
class Session:
    """The common options of one command, with the settings, the client and the store that they name."""

    config: Path | None
    redis_url: str | None
    prefix: str | None
    given_tenant: str | None
    as_json: bool

    def __post_init__(self) -> None:
        self.tenant = self.given_tenant or "default"
        self.printer = Printer(self.as_json)

    def hint(self, *words: str) -> str:
        """A command that works when it is pasted: with the options that this one was given."""
        return (
            f"pixmill {' '.join(words)}{spelled(self.config, self.redis_url, self.prefix, self.given_tenant)}"
        )

    @cached_property
    def settings(self) -> Settings:
        """The configuration of file, environment and flags; raises SettingsError."""
        flags = {"redis.url": self.redis_url, "redis.prefix": self.prefix}
        return load_settings(self.config, overrides=flags, offers=[alias_source]).settings

    def client(self) -> Client:
        """A client of the configured Redis, or of the `pixmill up` that runs here; raises NotRunningError."""
        settings = self.settings
        return Client.connect(
            settings.redis.url.reveal() if settings.redis.url else None,
            settings.redis.prefix,
            tenant=self.tenant,
            patience_s=PATIENCE_S,
            on_trouble=lambda _: self.printer.note("Redis does not answer; trying again. The work goes on."),
        )

    @asynccontextmanager
    async def fleet(self) -> AsyncIterator[Client]:
        """A client. Where nothing is configured here, `settings` then have the routes and quotas of the replicas.

        So a command beside a bare `pixmill up` knows the quota of its simulator.
        """
        async with self.client() as client:
            if not self.settings.routes and not self.settings.quotas:
                configured: Any = await client.redis.hget(client.keys.installation, "configured")
                self.settings = with_pace_of(self.settings, configured or b"{}")
            yield client

    async def know_pace(self) -> None:
        """Take the quotas of the replicas as `fleet` does, if Redis replies within a moment."""
        with suppress(NotRunningError, RedisError, OSError, TimeoutError):
            async with asyncio.timeout(LOOK_S), self.fleet():
                pass

    def store(self) -> ResultStore:
        """The configured object store."""
        from daemon.storage.object_store import ResultStore

        return ResultStore.open(self.settings.storage.url.reveal())

    async def find(self, client: Client, ident: str) -> View:
        """The record of a batch, a job or BATCH/ITEM; raises CommandError when there is none."""
        view = await client.status(ident)
        if view is None:
            await self._raise_if_refused(client, ident)
            raise self.unknown(ident)
        return view

    async def _raise_if_refused(self, client: Client, ident: str) -> None:
        """Raise CommandError if one of the newest dead letters is about this id."""
        for letter in await DeadLetters(client.redis, client.keys).newest(DEAD_LOOKED_AT, tenant=self.tenant):
            if ident in (letter.job, letter.batch):
                raise CommandError(
                    f"{ident} was refused: {letter.sentence} `{self.hint('dead show', letter.entry)}` has the rest.",
                    code="rejected",
                )

    def unknown(self, ident: str) -> CommandError:
        """The error for an id without a record."""
        return CommandError(
            f'There is no record of "{ident}" in tenant "{self.tenant}": it was never accepted here, or its record '
            f"has expired. `{self.hint('list')}` shows the work on record.",
            code="not_found",
        )


def command(function: Callable[Concatenate[Session, P], Coroutine[Any, Any, int]]) -> Callable[..., None]:
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
    common = list(inspect.signature(run, eval_str=True).parameters.values())[:-1]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    setattr(run, "__signature__", inspect.Signature([*keyword, *common]))  # noqa: B010 - unknown to type checkers
    run.__annotations__ = {}
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def _run(session: Session, function: Callable[..., Coroutine[Any, Any, int]], own: dict[str, Any]) -> int:
    try:
        return asyncio.run(function(session, **own))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        expected = explained(error, lambda: session.settings.redis.url)
        if expected is None:
            raise
        session.printer.note(str(expected))
        if session.as_json:
            session.printer.document({"error": {"message": str(expected), **expected.details}})
        return expected.exit_code
