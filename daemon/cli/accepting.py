"""After sending: has a worker accepted it? A refusal becomes an error with its sentence."""

from __future__ import annotations

from daemon.cli.exits import CommandError
from daemon.cli.session import Session
from daemon.client import Client, RejectedError
from daemon.client.sending import Acceptance, Sent

ACCEPT_S = 10.0
PATIENT_S = 3600.0


async def accepted(session: Session, client: Client, sent: Sent, *, patient: bool) -> Acceptance:
    """What intake said: accepted, duplicate, or unread when nobody has answered in 10 s (never when `patient`).

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
    if acceptance.state == "rejected":
        raise RejectedError(acceptance)
    if acceptance.state == "lost":
        raise CommandError(
            f"The entry of {sent.kind} {sent.id} has vanished from the stream without a record: does somebody trim "
            "it (XADD with MAXLEN), or was Redis emptied?",
            code="lost",
        )
    if acceptance.state == "duplicate":
        session.printer.note(
            f"{sent.kind} {sent.id} was sent before with the same content; its result stands."
        )
    return acceptance


def tell_sent(session: Session, sent: Sent, acceptance: Acceptance) -> None:
    """The id, for those who do not wait."""
    if session.as_json:
        session.printer.document(
            {
                sent.kind: sent.id,
                "tenant": sent.tenant,
                "acceptance": acceptance.state,
                "entries": list(sent.entries),
            }
        )
    else:
        session.printer.line(sent.id)
        session.printer.note(f"{acceptance.state}; follow it with: pixmill watch {sent.id}")
