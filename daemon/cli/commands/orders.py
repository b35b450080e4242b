"""`pixmill cancel` and `pixmill retry`: orders about work that was accepted."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon.cli.options import Ident
from daemon.cli.output import held_in
from daemon.cli.session import Session, command
from daemon.queue.orders import CANCEL_STATES, Orders, target_of
from pixmill.client import Client
from pixmill.records.views import View


@command
async def cancel(
    session: Session,
    ident: Ident,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only waiting items; running items go on.")
    ] = False,
) -> int:
    """Cancel items that have not ended: waiting items end at once, running items get a request to stop.

    A picture that the provider is already making is paid for; it is kept when it comes.

        pixmill cancel autumn-skus
    """
    states = [state for state in CANCEL_STATES if not waiting or state not in ("running", "held")]
    async with session.client() as client:
        view = await _view(session, client, ident)
        changed = await Orders(client.redis, client.keys).cancel(*target_of(view), states)
    cancelled, stopping = changed.ended_or_queued, changed.requested
    line = f"{ident}: {cancelled} cancelled" + (f"; {stopping} running, stop requested" if stopping else "")
    return session.printer.answer(
        {"id": ident, "cancelled": cancelled, "asked_to_stop": stopping},
        line if cancelled or stopping else f"{ident}: nothing to cancel, it has ended",
    )


@command
async def retry(
    session: Session,
    ident: Ident,
    failed: Annotated[bool, typer.Option("--failed", help="Failed items (also without any option).")] = False,
    held: Annotated[
        bool, typer.Option("--held", help="Held items: they may be paid for a second time.")
    ] = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Cancelled items.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="Expired items.")] = False,
) -> int:
    """Run again items that did not succeed; the others are never touched, so nothing is bought twice.

    Without an option it runs failed items. A held item had an unknown outcome: it may have been paid for already.

        pixmill retry autumn-skus --failed --expired
    """
    wanted = {"failed": failed, "held": held, "cancelled": cancelled, "expired": expired}
    states = [state for state, is_wanted in wanted.items() if is_wanted] or ["failed"]
    async with session.client() as client:
        view = await _view(session, client, ident)
        changed = await Orders(client.redis, client.keys).retry(*target_of(view), states)
        waiting = 0 if changed.ended_or_queued or held else held_in(await session.find(client, ident))
    document = {"id": ident, "queued": changed.ended_or_queued, "states": states}
    if changed.ended_or_queued:
        line, note = (
            f"{ident}: {changed.ended_or_queued} queued again",
            f"follow it with: {session.hint('watch', ident)}",
        )
    else:
        line, note = f"{ident}: nothing to retry, no item is {' or '.join(states)}", ""
    if waiting:
        note = f"{waiting} held: {session.hint('retry', ident, '--held')} sends that again and may pay twice"
    return session.printer.answer(document, line, note=note)


async def _view(session: Session, client: Client, ident: str) -> View:
    """The record of the work; raises CommandError if there is none."""
    view = await client.status(ident)
    if view is None:
        raise session.unknown(ident)
    return view
