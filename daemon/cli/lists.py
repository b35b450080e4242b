"""`pixmill list`: the newest batches and jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon.cli.session import ALL_WELL, Session, command

LIST_HELP = """List the newest batches and jobs, of all tenants unless one is named.

    pixmill list --active --tenant studio
"""


def register(app: typer.Typer) -> None:
    app.command("list", help=LIST_HELP)(list_)


@command
async def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    active: Annotated[bool, typer.Option("--active", help="Only what has not ended.")] = False,
) -> int:
    from daemon.cli.output import extent, moment, states
    from daemon.records import GroupView

    async with session.client() as client:
        views = await client.records.recent(limit, tenant=session.given_tenant, active=active)
    if session.as_json:
        session.printer.document([view.as_dict() for view in views])
        return ALL_WELL
    if not views:
        session.printer.note("There is no work." if active else "There is no work on record.")
        return ALL_WELL
    rows = [("ID", "KIND", "TENANT", "STATE", "DONE", "ITEMS", "ACCEPTED")]
    for view in views:
        done, total = extent(view)
        kind = view.kind if isinstance(view, GroupView) else "job"
        counts = states(view) if isinstance(view, GroupView) else ""
        rows.append(
            (view.id, kind, view.tenant, view.state, f"{done}/{total}", counts, moment(view.accepted_at))
        )
    session.printer.table(rows)
    return ALL_WELL
