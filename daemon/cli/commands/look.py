"""`pixmill watch`, `status`, `list` and `results`: look at work, or fetch its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.accounts.words import sentence
from daemon.cli.commands.explain import reason_of
from daemon.cli.ending import document, exit_code, finish, save
from daemon.cli.errors import USAGE, CommandError
from daemon.cli.following import ident_of, lines_of
from daemon.cli.options import Ident
from daemon.cli.output import extent, held_in, moment, states
from daemon.cli.session import Session, command
from daemon.queue.pauses import pause_of
from pixmill.records.records import GroupView, View


@command
async def watch(
    session: Session,
    ident: Ident,
    out: Annotated[
        Path | None, typer.Option(help="Save the pictures into this directory at the end.")
    ] = None,
) -> int:
    """Follow a batch or a job to its end.

    Ctrl-C stops the watching, not the work.
    The exit code: 0 all well, 3 partly failed, 4 failed, 5 cancelled.

        pixmill watch autumn-skus --out pictures
    """
    async with session.fleet() as client:
        return await finish(session, client, ident, explain=reason_of, out=out)


@command
async def status(
    session: Session,
    ident: Ident,
    items: Annotated[
        bool, typer.Option("--items", help="With --json: every item of a batch as well.")
    ] = False,
) -> int:
    """Show how far a batch or a job is, and why something failed.

    The exit code: 0 all well so far, 3 partly failed, 4 failed or unknown, 5 cancelled.

        pixmill status autumn-skus
        pixmill status autumn-skus/sku1-main --json
    """
    async with session.client() as client:
        view = await session.find(client, ident)
        paused = await pause_of(client.redis, client.records, view)
        content = view.as_dict() | {"paused": None if paused is None else paused.as_dict()}
        if isinstance(view, GroupView):
            progress = await client.records.progress(view)
            content |= {"eta_seconds": None if view.ended else progress.eta_s}
            content |= {"bound": None if view.ended else progress.bound}
            if items:
                content["items"] = [item.as_dict() for item in await client.items_of(view)]
        lines = [] if session.as_json else await lines_of(session, client, view)
    session.printer.answer(content, *lines, *([f"  {paused.sentence}"] if paused is not None else []))
    return exit_code(view)


@command
async def results(
    session: Session,
    ident: Ident,
    out: Annotated[Path | None, typer.Option(help="A directory, which is created.")] = None,
    archive: Annotated[Path | None, typer.Option("--zip", help="A ZIP file, which is replaced.")] = None,
) -> int:
    """Save the pictures of a batch or a job, with a manifest.json that describes each file.

    Works while the batch is still running; saving again adds the missing pictures.

        pixmill results autumn-skus --out pictures
        pixmill results autumn-skus --zip autumn.zip
    """
    if (out is None) == (archive is None):
        raise CommandError("Name the place for the pictures: --out DIR or --zip FILE.", USAGE)
    async with session.client() as client:
        view = await session.find(client, ident)
        items = await client.items_of(view)
    saved = await save(session, view, items, out=out, archive=archive)
    if not view.ended:
        session.printer.note(f"{ident} has not ended: save again later for the rest.")
    session.printer.answer(document(view, items, saved))
    return exit_code(view, saved)


@command
async def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    active: Annotated[bool, typer.Option("--active", help="Only work that has not ended.")] = False,
    held: Annotated[
        bool, typer.Option("--held", help="Items that wait for your decision, and why each is held.")
    ] = False,
) -> int:
    """List the newest batches and jobs, of all tenants unless one is named.

    pixmill list --active --tenant studio
    pixmill list --held
    """
    if held:
        return await _held(session, limit)
    async with session.client() as client:
        views = await client.records.recent(limit, tenant=session.given_tenant, active=active)
    code = session.printer.table(
        [view.as_dict() for view in views],
        [_row(view) for view in views],
        ("ID", "KIND", "TENANT", "STATE", "DONE", "ITEMS", "ACCEPTED"),
        empty="There is no work." if active else "There is no work on record.",
    )
    if not session.as_json and any(map(held_in, views)):
        session.printer.note(
            f"some of it is held and waits for your decision: {session.hint('list', '--held')}"
        )
    return code


def _row(view: View) -> tuple[str, ...]:
    done, total = extent(view)
    kind, counts = (view.kind, states(view)) if isinstance(view, GroupView) else ("job", "")
    return (view.id, kind, view.tenant, view.state, f"{done}/{total}", counts, moment(view.accepted_at))


async def _held(session: Session, limit: int) -> int:
    async with session.client() as client:
        items = await client.records.held(limit, tenant=session.given_tenant)
    code = session.printer.table(
        [item.as_dict() for item in items],
        [
            (ident_of(item), item.tenant, item.route, moment(item.accepted_at), sentence(item))
            for item in items
        ],
        ("ID", "TENANT", "ROUTE", "ACCEPTED", "WHY"),
        empty="Nothing is held.",
    )
    if items and not session.as_json:
        own = "" if session.given_tenant else " --tenant TENANT"
        again, end = session.hint("retry", "ID", "--held"), session.hint("cancel", "ID")
        session.printer.note(f"{again}{own} sends it again and may pay twice; {end}{own} gives it up")
    return code
