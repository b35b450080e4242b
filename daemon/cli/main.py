"""`pixmill`: the table of commands. A command's module is imported when it is called, so that help comes at once.

A module has `register(app)`, which adds its commands to a typer app under the names that the table gives them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Listed(NamedTuple):
    """A line of `pixmill --help`, and the module that has the command."""

    name: str
    module: str
    help: str


WORK, LOOK, RUN, CHECK = "Send work", "Look at it", "Run it", "Check it"

COMMANDS: dict[str, tuple[Listed, ...]] = {
    WORK: (
        Listed("submit", "daemon.cli.submit", "Ask for pictures of one prompt."),
        Listed("batch", "daemon.cli.batch", "Send a CSV or JSONL file as one batch."),
        Listed("cancel", "daemon.cli.orders", "Stop what has not ended."),
        Listed("retry", "daemon.cli.orders", "Run again what did not succeed."),
    ),
    LOOK: (
        Listed("watch", "daemon.cli.watch", "Follow a batch or a job to its end."),
        Listed("status", "daemon.cli.status", "Say how far a batch or a job is, and why."),
        Listed("list", "daemon.cli.lists", "List the newest batches and jobs."),
        Listed("results", "daemon.cli.results", "Save the pictures of a batch or a job."),
        Listed("explain", "daemon.cli.explain", "Say why something waits, and until when."),
        Listed(
            "quotas",
            "daemon.cli.quotas",
            "Show what each quota has left and what holds it back.",
        ),
        Listed("dead", "daemon.cli.dead", "Look at dead letters, retry or purge them."),
    ),
    RUN: (
        Listed("up", "daemon.cli.serve", "Run everything here; nothing needs to be installed or configured."),
        Listed("worker", "daemon.cli.serve", "Run one replica."),
        Listed("demo", "daemon.cli.demo", "Show it: a batch, start to finish, with nothing to configure."),
        Listed("quota", "daemon.cli.quota_set", "Pause, resume or set a quota, for all replicas."),
        Listed("pause", "daemon.cli.pausing", "Begin no new call: of all work, a route or a batch."),
        Listed("resume", "daemon.cli.pausing", "End such a pause."),
        Listed("simulator", "daemon.cli.serve", "Run the simulated provider."),
    ),
    CHECK: (
        Listed(
            "doctor", "daemon.cli.doctor", "Check Redis, the object store and every credential, for free."
        ),
        Listed("simulate", "daemon.cli.simulate", "Try a plan in virtual time: how long, how many 429s."),
        Listed("config", "daemon.cli.main:register_config", "Check and show the configuration."),
        Listed("schema", "daemon.cli.main:register_schema", "Print the JSON Schema of what travels."),
    ),
}


def run() -> None:
    """The console entry."""
    app(prog_name="pixmill")


class LazyGroup(TyperGroup):
    """Knows the names and one line of each command; builds the command that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for panel, listed in _listed():
            self.commands[listed.name] = TyperCommand(listed.name, help=listed.help, rich_help_panel=panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Build the command before it is looked up."""
        for _, listed in _listed():
            if args and listed.name == args[0]:
                self.commands[listed.name] = _build(listed)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Pictures from image-generation APIs, at exactly the speed that your accounts allow.\n\n"
    'Begin with `pixmill up`, then `pixmill submit "a red kettle" --wait --out pictures`.',
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pixmill {version('pixmill')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def register_config(to: typer.Typer) -> None:
    """`config check|print`."""
    from daemon.cli.config import config_app

    to.add_typer(config_app, name="config")


def register_schema(to: typer.Typer) -> None:
    """`schema job|batch|event`."""
    from daemon.cli.schema import schema_command

    to.command("schema")(schema_command)


def _listed() -> Iterator[tuple[str, Listed]]:
    return ((panel, listed) for panel, row in COMMANDS.items() for listed in row)


def _build(listed: Listed) -> Any:
    module, _, register = listed.module.partition(":")
    part = typer.Typer(callback=_group_of_its_own, pretty_exceptions_enable=False)
    getattr(importlib.import_module(module), register or "register")(part)
    group: Any = typer.main.get_command(part)
    return group.commands[listed.name]


def _group_of_its_own() -> None:
    """Without a callback, typer makes an app of one command that command itself."""
