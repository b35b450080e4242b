"""`pixmill list`: the newest batches and jobs, or all that waits for a person."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon.cli.exits import ALL_WELL
from daemon.cli.session import Session, command

LIST_HELP = """List the newest batches and jobs, of all tenants unless one is named.

    pixmill list --active --tenant studio
    pixmill list --held
"""
HELD_HELP = "What waits for you, item by item, and why."


def register(app: typer.Typer) -> None:
    app.command("list", help=LIST_HELP)(list_)


@command
async def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    active: Annotated[bool, typer.Option("--active", help="Only what has not ended.")] = False,
    held: Annotated[bool, typer.Option("--held", help=HELD_HELP)] = False,
) -> int:
    if held:
        return await _held(session, limit)
    from daemon.cli.output import extent, moment, states
    from daemon.queue.records import GroupView

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
    if any(view.needs_person if not isinstance(view, GroupView) else view.counts.held for view in views):
        session.printer.note("some of it is held and waits for you: pixmill list --held")
    return ALL_WELL


async def _held(session: Session, limit: int) -> int:
    from daemon.cli.following import ident_of
    from daemon.cli.output import moment, sentence

    async with session.client() as client:
        items = await client.records.held(limit, tenant=session.given_tenant)
    if session.as_json:
        session.printer.document([item.as_dict() for item in items])
        return ALL_WELL
    if not items:
        session.printer.note("Nothing is held.")
        return ALL_WELL
    rows = [("ID", "TENANT", "ROUTE", "ACCEPTED", "WHY")]
    rows += [
        (ident_of(item), item.tenant, item.route, moment(item.accepted_at), sentence(item)) for item in items
    ]
    session.printer.table(rows)
    session.printer.note(
        "pixmill retry ID --held sends it again and may pay twice; pixmill cancel ID gives it up"
    )
    return ALL_WELL
