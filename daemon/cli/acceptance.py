"""Waits until a worker has accepted sent work, and until the work ends if that is requested."""

from __future__ import annotations

from pathlib import Path

from daemon.cli.ending import finish
from daemon.cli.errors import CommandError
from daemon.cli.following import Explain
from daemon.cli.session import Session
from pixmill.client import Acceptance, Client, Sent

ACCEPT_S = 10.0
PATIENT_S = 3600.0


async def after_sending(
    session: Session, client: Client, sent: Sent, *, explain: Explain, wait: bool, out: Path | None
) -> int:
    """Print the id once a worker has accepted it; with `wait` or `out` stay to the end. Returns the exit code."""
    stays = wait or out is not None
    acceptance = await _accepted(session, client, sent, patient=stays)
    if stays:
        return await finish(session, client, sent.id, explain=explain, out=out)
    content = {
        sent.kind: sent.id,
        "tenant": sent.tenant,
        "acceptance": acceptance.state,
        "entries": list(sent.entries),
    }
    note = f"{acceptance.state}; follow it with: {session.hint('watch', sent.id)}"
    return session.printer.answer(content, sent.id, note=note)


async def _accepted(session: Session, client: Client, sent: Sent, *, patient: bool) -> Acceptance:
    """Intake's reply: accepted, duplicate, or unread if none came within 10 s (never unread if `patient`).

    Raises RejectedError, and CommandError when the entry has vanished.
    """
    acceptance = await client.acceptance(sent, ACCEPT_S)
    while acceptance.state == "unread":
        session.printer.note(
            f"No worker has taken {sent.kind} {sent.id} yet; it stays in the stream. Is `pixmill up` or "
            "`pixmill worker` running?"
        )
        if not patient:
            return acceptance
        acceptance = await client.acceptance(sent, PATIENT_S)
    acceptance.unless_rejected()
    if acceptance.state == "lost":
        raise CommandError(
            f"The entry of {sent.kind} {sent.id} has vanished from the stream without a record. Does a producer "
            "trim it (XADD with MAXLEN), or was Redis emptied?",
            code="lost",
        )
    if acceptance.state == "duplicate":
        session.printer.note(
            f"{sent.kind} {sent.id} was sent before with the same content; its result stands."
        )
    return acceptance
