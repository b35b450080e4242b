"""`pixmill results`: the pictures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.exits import USAGE, CommandError
from daemon.cli.session import Session, command

RESULTS_HELP = """Save the pictures of a batch or a job, with a manifest.json that says what each file is.

Works while the batch is still running; saving again completes what is missing.

    pixmill results autumn-skus --out pictures
    pixmill results autumn-skus --zip autumn.zip
"""


def register(app: typer.Typer) -> None:
    app.command("results", help=RESULTS_HELP)(results)


@command
async def results(
    session: Session,
    ident: Annotated[str, typer.Argument(metavar="ID", help="A batch, a job, or BATCH/ITEM.")],
    out: Annotated[Path | None, typer.Option(help="A directory, which is created.")] = None,
    archive: Annotated[Path | None, typer.Option("--zip", help="A ZIP file, which is replaced.")] = None,
) -> int:
    if (out is None) == (archive is None):
        raise CommandError("Say where the pictures go: --out DIR or --zip FILE.", USAGE)
    from daemon.cli.ending import document, max_code, save
    from daemon.cli.following import exit_code

    async with session.client() as client:
        view = await client.status(ident)
        if view is None:
            raise session.unknown(ident)
        items = await client.items(ident)
    saved = await save(session, view, items, out=out, archive=archive)
    if not view.ended:
        session.printer.note(f"{ident} has not ended: save again later for the rest.")
    if session.as_json:
        session.printer.document(document(view, items, saved))
    return max_code(exit_code(view), saved)
