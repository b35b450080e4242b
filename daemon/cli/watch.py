"""`pixmill watch`: follow a batch or a job to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.session import Session, command

WATCH_HELP = """Follow a batch or a job to its end.

Ctrl-C stops the watching, not the work. The exit code tells the end: 0 all well, \
3 partly failed, 4 failed, 5 cancelled.

    pixmill watch autumn-skus --out pictures
"""


def register(app: typer.Typer) -> None:
    app.command("watch", help=WATCH_HELP)(watch)


@command
async def watch(
    session: Session,
    ident: Annotated[str, typer.Argument(metavar="ID", help="A batch, a job, or BATCH/ITEM.")],
    out: Annotated[
        Path | None, typer.Option(help="Save the pictures into this directory at the end.")
    ] = None,
) -> int:
    from daemon.cli.ending import finish

    async with session.client() as client:
        view = await client.status(ident)
        if view is None:
            raise session.unknown(ident)
        return await finish(session, client, view, out=out)
