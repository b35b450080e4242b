"""`pixmill`: the table of commands.

A command's module is imported when the command is called, so that `pixmill --help` comes at once.
"""

from __future__ import annotations

import importlib
import io
import signal
import sys
import traceback
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from daemon.cli.importing import importing
from daemon.telemetry.streams import NoReaderError


class Listed(NamedTuple):
    """A line of `pixmill --help`, and the function or typer app behind it: `module:name` in daemon.cli.commands."""

    name: str
    target: str
    help: str
    settings: dict[str, Any] | None = None


WORK, LOOK, RUN, CHECK = "Send work", "Look at it", "Run it", "Check it"
_OWN_PARSER = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}

COMMANDS: dict[str, tuple[Listed, ...]] = {
    WORK: (
        Listed("submit", "submit:submit", "Ask for pictures of one prompt."),
        Listed("batch", "batch:batch", "Send a CSV or JSONL file as one batch."),
        Listed("cancel", "orders:cancel", "Cancel items that have not ended."),
        Listed("retry", "orders:retry", "Run again items that did not succeed."),
    ),
    LOOK: (
        Listed("watch", "look:watch", "Follow a batch or a job to its end."),
        Listed("status", "look:status", "Show how far a batch or a job is, and what failed."),
        Listed("list", "look:list_", "List the newest batches and jobs."),
        Listed("results", "look:results", "Save the pictures of a batch or a job."),
        Listed("explain", "explain:explain", "Explain why something waits, and until when."),
        Listed("quotas", "quotas:quotas", "Show what each quota has left and what holds it back."),
        Listed("dead", "dead:dead", "Look at dead letters, retry or purge them."),
    ),
    RUN: (
        Listed("up", "serve:up", "Run everything here; nothing needs to be installed or configured."),
        Listed("worker", "serve:worker", "Run one replica."),
        Listed("gateway", "serve:gateway", "Serve HTTP."),
        Listed("mirror", "serve:mirror", "Copy jobs and batches into PostgreSQL, for SQL."),
        Listed("key", "key:key", "Make, list and revoke the keys of the gateway."),
        Listed("demo", "demo:demo", "Run a demo batch from start to finish, with nothing to configure."),
        Listed("quota", "quota:quota", "Pause, resume or set a quota, for all replicas."),
        Listed("pause", "pausing:pause", "Pause all work, a route or a batch: no new call begins."),
        Listed("resume", "pausing:resume", "End such a pause."),
        Listed("simulator", "serve:simulator", "Run the simulated provider.", _OWN_PARSER),
    ),
    CHECK: (
        Listed("doctor", "doctor:doctor", "Check Redis, the object store and every credential, for free."),
        Listed("simulate", "simulate:simulate", "Try a plan in virtual time: how long, how many 429s."),
        Listed("config", "config:config", "Check and show the configuration."),
        Listed("schema", "config:schema_", "Print the JSON Schema of a job, a batch or an event."),
        Listed("openapi", "config:openapi", "Print the OpenAPI document of the gateway."),
    ),
}
_LISTED = {listed.name: (panel, listed) for panel, row in COMMANDS.items() for listed in row}


def run() -> None:
    """The console entry."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal may lack the letters of a prompt (cp1252, ascii): they become escapes.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="pixmill")
    except NoReaderError:
        _leave()
    except SystemExit as end:
        # Help, versions and schemas are printed by typer, which makes a broken pipe an exit code of its own.
        if isinstance(end.__context__, BrokenPipeError):
            _leave()
        raise
    except Exception:
        # A fault of ours: its text may hold what others wrote.
        from pixmill.redaction import redact
        from pixmill.text import visible

        print(visible(redact(traceback.format_exc()), lines=True), file=sys.stderr)
        sys.exit(1)


def _leave() -> NoReturn:
    """End as a process that SIGPIPE ends."""
    sys.exit(128 + signal.SIGPIPE)


class LazyGroup(TyperGroup):
    """Knows the name and one line of each command; builds only the command that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for panel, listed in _LISTED.values():
            self.commands[listed.name] = TyperCommand(listed.name, help=listed.help, rich_help_panel=panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Build the command before it is looked up."""
        if args and args[0] in _LISTED:
            self.commands[args[0]] = _build(_LISTED[args[0]][1])
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Pictures from image-generation APIs, at exactly the speed that your accounts allow.\n\n"
    'Begin with `pixmill up`, then `pixmill submit "a red kettle" --wait --out pictures`.',
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed_version

        typer.echo(f"pixmill {installed_version('pixmill-daemon')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _build(listed: Listed) -> Any:
    module, _, name = listed.target.partition(":")
    with importing():
        command = getattr(importlib.import_module(f"daemon.cli.commands.{module}"), name)
    # With a callback, typer makes a group even of one command.
    part = typer.Typer(callback=lambda: None, pretty_exceptions_enable=False)
    if isinstance(command, typer.Typer):
        part.add_typer(command, name=listed.name)
    else:
        part.command(listed.name, **(listed.settings or {}))(command)
    group: Any = typer.main.get_command(part)
    return group.commands[listed.name]
