"""`pixmill status`: how far something is, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon.cli.session import Session, command

STATUS_HELP = """Say how far a batch or a job is, and why something failed.

The exit code tells the end: 0 all well so far, 3 partly failed, 4 failed or unknown, 5 cancelled.

    pixmill status autumn-skus
    pixmill status autumn-skus/sku1-main --json
"""


def register(app: typer.Typer) -> None:
    app.command("status", help=STATUS_HELP)(status)


@command
async def status(
    session: Session,
    ident: Annotated[str, typer.Argument(metavar="ID", help="A batch, a job, or BATCH/ITEM.")],
    items: Annotated[
        bool, typer.Option("--items", help="With --json: every item of a batch as well.")
    ] = False,
) -> int:
    from daemon.cli.following import exit_code, lines_of
    from daemon.cli.pausing import pause_of
    from daemon.queue.records import GroupView

    async with session.client() as client:
        view = await client.status(ident)
        if view is None:
            raise session.unknown(ident)
        paused = await pause_of(client, view)
        if not session.as_json:
            for line in await lines_of(client, view):
                session.printer.line(line)
            if paused is not None:
                session.printer.line(f"  {paused.sentence}")
            return exit_code(view)
        content = view.as_dict() | {"paused": None if paused is None else paused.as_dict()}
        if isinstance(view, GroupView):
            progress = await client.records.progress(view)
            content |= {"eta_seconds": None if view.ended else progress.eta_s}
            content |= {"bound": None if view.ended else progress.bound}
            if items:
                content["items"] = [item.as_dict() for item in await client.records.all_members(view.gid)]
        session.printer.document(content)
        return exit_code(view)
