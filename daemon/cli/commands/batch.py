"""`pixmill batch`: a CSV or JSONL file as one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.acceptance import after_sending
from daemon.cli.commands.explain import reason_of
from daemon.cli.ending import ready
from daemon.cli.errors import USAGE, CommandError
from daemon.cli.planning import batch_id, left_out, plan_lines, plan_of
from daemon.cli.session import Session, command
from daemon.files.batch_file import read_batch_file


@command
async def batch(
    session: Session,
    file: Annotated[Path, typer.Argument(help="CSV with a header row, or JSONL.")],
    ident: Annotated[str | None, typer.Option("--id", help="The batch's id.")] = None,
    route: Annotated[str | None, typer.Option(help="For items that name none (default).")] = None,
    size: Annotated[str | None, typer.Option(help="For items that give none.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="For items that give none: high, normal or low.")
    ] = None,
    prompt_template: Annotated[
        str | None, typer.Option(help='Prompts from columns: "{title}, white background".')
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A column that is no job field, whatever its name. Repeatable."),
    ] = None,
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="Leave out rows that have nothing to make a prompt from.")
    ] = False,
    max_in_flight: Annotated[int | None, typer.Option(help="At most so many at a time.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Save the pictures into this directory; implies --watch.")
    ] = None,
) -> int:
    """Send a CSV or JSONL file as one batch.

    Columns named like job fields (id, prompt, size, seed, route, n, inputs, params.X, metadata.X ...) fill them.
    Other columns are there for --prompt-template; those that nothing uses are listed. Nothing is sent when any line is
    wrong.
    Without --id, the batch is named after the file and its content, so sending the same file twice pays once.

        pixmill batch skus.csv --prompt-template "{title}, white" --dry-run
        pixmill batch skus.csv --prompt-template "{title}, white" --out pictures
    """
    given = {"route": route, "size": size, "priority": priority}
    defaults = {name: value for name, value in given.items() if value is not None}
    try:
        read = read_batch_file(
            file,
            prompt_template=prompt_template,
            defaults=defaults,
            ignored=ignore or (),
            skip_empty=skip_empty,
        )
    except ValueError as error:
        raise CommandError(str(error), USAGE) from None
    items = read.items
    fields: dict[str, Any] = {"tenant": session.tenant, "defaults": defaults}
    if max_in_flight is not None:
        fields["max_in_flight"] = max_in_flight
    fields["id"] = ident or batch_id(file, fields, items)
    if dry_run:
        await session.know_pace()
        plan = plan_of(fields, read, session.settings)
        return session.printer.answer(plan, *plan_lines(plan))
    for note in left_out(read):
        session.printer.note(note)
    ready(out)
    async with session.client() as client:
        sent = await client.sender.batch(fields, items)
        return await after_sending(session, client, sent, explain=reason_of, wait=watch, out=out)
