"""`pixmill key`: the keys of those who may use the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.errors import USAGE, CommandError
from daemon.cli.session import Session, command
from daemon.gateway.callers.keys_file import add_key, read_keys, revoke_key
from daemon.gateway.callers.scopes import SCOPES, Scope

key = typer.Typer(help="Make, list and revoke the keys of the gateway.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Who gets the key.")]
FileOption = Annotated[Path | None, typer.Option("--file", help="The file of keys (gateway.keys_file).")]


@key.command()
@command
async def new(
    session: Session,
    name: Name,
    scopes: Annotated[str, typer.Option(help="What it may do: read, submit, admin.")] = "read,submit",
    file: FileOption = None,
) -> int:
    """Make a key for one tenant and print it once. Only its hash is kept.

    pixmill key new slide-maker --tenant slides --scopes read,submit
    """
    path = _path(session, file)
    made = add_key(path, name, session.tenant, _scopes(scopes))
    document = {"name": name, "tenant": session.tenant, "key": made}
    return session.printer.answer(
        document, made, note=f"This is the only time it is shown; {path} has its hash."
    )


@key.command("list")
@command
async def list_(session: Session, file: FileOption = None) -> int:
    """List the keys: names, tenants and scopes.

    pixmill key list
    """
    keys = read_keys(_path(session, file))
    facts: list[dict[str, Any]] = [
        {
            "name": one.name,
            "tenant": one.tenant,
            "scopes": [scope for scope in SCOPES if scope in one.scopes],
            "created_at": one.created_at.isoformat(timespec="seconds"),
        }
        for one in keys
    ]
    rows = [(row["name"], row["tenant"], ",".join(row["scopes"]), row["created_at"]) for row in facts]
    header = ("NAME", "TENANT", "SCOPES", "CREATED")
    return session.printer.table(facts, rows, header, empty="There are no keys.")


@key.command()
@command
async def revoke(session: Session, name: Name, file: FileOption = None) -> int:
    """Revoke a key; gateways refuse it from then on, without a restart.

    pixmill key revoke slide-maker
    """
    revoke_key(_path(session, file), name)
    return session.printer.answer({"revoked": name}, f"{name} is revoked.")


def _path(session: Session, file: Path | None) -> Path:
    path = file or session.settings.gateway.keys_file
    if path is None:
        raise CommandError("No file of keys is configured: set gateway.keys_file, or give --file.", USAGE)
    return path


def _scopes(text: str) -> frozenset[Scope]:
    words = [word.strip() for word in text.split(",")]
    if wrong := [word for word in words if word not in SCOPES]:
        raise CommandError(f'--scopes: "{wrong[0]}" is none of {", ".join(SCOPES)}.', USAGE)
    return frozenset(scope for scope in SCOPES if scope in words)
