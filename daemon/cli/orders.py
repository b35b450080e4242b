"""`pixmill cancel` and `pixmill retry`: what people ask of work that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.exits import ALL_WELL
from daemon.cli.session import Session, command

if TYPE_CHECKING:
    from daemon.queue.records import View

CANCEL_HELP = """Stop what has not ended: what waits ends at once, what runs is asked to stop.

A picture that the provider is already making is paid for; it is kept when it comes.

    pixmill cancel autumn-skus
"""
RETRY_HELP = """Run again what did not succeed; what succeeded is never touched, so nothing is bought twice.

Without an option: what failed. What is held had an unknown outcome: it may have been paid for already.

    pixmill retry autumn-skus --failed --expired
"""

Ident = Annotated[str, typer.Argument(metavar="ID", help="A batch, a job, or BATCH/ITEM.")]


def register(app: typer.Typer) -> None:
    app.command("cancel", help=CANCEL_HELP)(cancel)
    app.command("retry", help=RETRY_HELP)(retry)


@command
async def cancel(
    session: Session,
    ident: Ident,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only what waits; what runs goes on.")] = False,
) -> int:
    from daemon.client.client import CANCEL_STATES

    states = [state for state in CANCEL_STATES if not waiting or state not in ("running", "held")]
    async with session.client() as client:
        changed = await client.cancel(ident, states=states)
    if not changed.known:
        raise session.unknown(ident)
    if session.as_json:
        session.printer.document(
            {"id": ident, "cancelled": changed.ended_or_queued, "asked_to_stop": changed.requested}
        )
    elif changed.ended_or_queued or changed.requested:
        asked = f"; {changed.requested} running, asked to stop" if changed.requested else ""
        session.printer.line(f"{ident}: {changed.ended_or_queued} cancelled{asked}")
    else:
        session.printer.line(f"{ident}: nothing to cancel, it has ended")
    return ALL_WELL


@command
async def retry(
    session: Session,
    ident: Ident,
    failed: Annotated[bool, typer.Option("--failed", help="What failed (also without any option).")] = False,
    held: Annotated[
        bool, typer.Option("--held", help="What is held: it may be paid for a second time.")
    ] = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="What was cancelled.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="What expired.")] = False,
) -> int:
    wanted = {"failed": failed, "held": held, "cancelled": cancelled, "expired": expired}
    states = [state for state, is_wanted in wanted.items() if is_wanted] or ["failed"]
    async with session.client() as client:
        changed = await client.retry(ident, states=states)
        waiting = 0 if changed.ended_or_queued or held else _held_in(await client.status(ident))
    if not changed.known:
        raise session.unknown(ident)
    if session.as_json:
        session.printer.document({"id": ident, "queued": changed.ended_or_queued, "states": states})
    elif changed.ended_or_queued:
        session.printer.line(f"{ident}: {changed.ended_or_queued} queued again")
        session.printer.note(f"follow it with: pixmill watch {ident}")
    else:
        session.printer.line(f"{ident}: nothing to retry, no item is {' or '.join(states)}")
        if waiting:
            session.printer.note(
                f"{waiting} held: pixmill retry {ident} --held sends that again and may pay twice"
            )
    return ALL_WELL


def _held_in(view: View | None) -> int:
    """How many of its items wait for a person."""
    if view is None:
        return 0
    counts = getattr(view, "counts", None)
    return counts.held if counts is not None else int(view.needs_person)
