"""`pixmill dead`: entries and items that ended as dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.session import ALL_WELL, FAILED, PARTLY, USAGE, CommandError, Session, command

if TYPE_CHECKING:
    from daemon.client import Client
    from daemon.dead_letters import DeadLetter, DeadLetters

LIST_HELP = """List dead letters, newest first, or count them by reason.

    pixmill dead list --group-by reason
"""
SHOW_HELP = """Show one dead letter as a whole, with the original fields.

    pixmill dead show 1767225600000-0
"""
RETRY_HELP = """Try dead letters again: named ones, all of a reason, or all.

Fix what the reason says first (a missing route, say); otherwise they come back.

    pixmill dead retry --reason unknown_route
"""
PURGE_HELP = """Throw dead letters away: named ones, all of a reason, or all.

    pixmill dead purge --reason malformed --yes
"""
MOST_AT_ONCE = 100_000

Reason = Annotated[str | None, typer.Option(help="Only those with this reason.")]
Idents = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters, as `dead list` names them.")
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Look at dead letters, retry or purge them.", no_args_is_help=True)
    group.command("list", help=LIST_HELP)(list_)
    group.command("show", help=SHOW_HELP)(show)
    group.command("retry", help=RETRY_HELP)(retry)
    group.command("purge", help=PURGE_HELP)(purge)
    app.add_typer(group, name="dead")


@command
async def list_(
    session: Session,
    group_by: Annotated[
        str | None, typer.Option("--group-by", help="`reason`: count instead of list.")
    ] = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_AT_ONCE, help="How many at most.")] = 20,
) -> int:
    if group_by not in (None, "reason"):
        raise CommandError("--group-by knows only `reason`.", USAGE)
    async with session.client() as client:
        letters = _letters(client)
        if group_by is not None:
            counts = await letters.by_reason(tenant=session.given_tenant)
            _tell_counts(session, counts)
            return ALL_WELL
        found = await letters.newest(limit, reason=reason, tenant=session.given_tenant)
    if session.as_json:
        session.printer.document([letter.as_dict() for letter in found])
    elif found:
        rows = [("ID", "AT", "REASON", "TENANT", "JOB", "WHY")]
        rows += [(one.entry, one.at[:19], one.reason, one.tenant, _name(one), one.sentence) for one in found]
        session.printer.table(rows)
    else:
        session.printer.note("There are no dead letters.")
    return ALL_WELL


@command
async def show(session: Session, ident: Annotated[str, typer.Argument(metavar="ID")]) -> int:
    async with session.client() as client:
        letter = (await _named(_letters(client), [ident]))[0]
    if session.as_json:
        session.printer.document(letter.as_dict())
        return ALL_WELL
    session.printer.line(f"dead letter {letter.entry} of {_name(letter)} (tenant {letter.tenant})")
    session.printer.line(f"  {letter.reason} at {letter.at}, after {letter.attempts} attempts")
    session.printer.line(f"  {letter.sentence}")
    for name, value in letter.as_dict()["original"].items():
        session.printer.line(f"  {name}: {value}")
    if not letter.original:
        session.printer.line("  The original was not kept.")
    return ALL_WELL


@command
async def retry(
    session: Session, idents: Idents = None, reason: Reason = None, everything: All = False
) -> int:
    async with session.client() as client:
        letters = _letters(client)
        chosen = await _chosen(session, letters, idents, reason, everything)
        outcomes = {letter.entry: await letters.retry(letter, client.queue) for letter in chosen}
    again = sum(outcome in ("requeued", "resent") for outcome in outcomes.values())
    if session.as_json:
        session.printer.document({"retried": again, "outcomes": outcomes})
    else:
        session.printer.line(f"{again} of {len(chosen)} tried again")
        for entry, outcome in outcomes.items():
            if outcome in _NOT_AGAIN:
                session.printer.note(f"{entry}: {_NOT_AGAIN[outcome]}")
    if again == len(chosen):
        return ALL_WELL
    return PARTLY if again else FAILED


@command
async def purge(
    session: Session,
    idents: Idents = None,
    reason: Reason = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    async with session.client() as client:
        letters = _letters(client)
        chosen = await _chosen(session, letters, idents, reason, everything)
        if chosen and not yes and not typer.confirm(f"Throw {len(chosen)} dead letters away?", err=True):
            raise CommandError("Nothing was thrown away.", USAGE)
        purged = await letters.purge([letter.entry for letter in chosen])
    if session.as_json:
        session.printer.document({"purged": purged})
    else:
        session.printer.line(f"{purged} purged")
    return ALL_WELL


_NOT_AGAIN = {
    "gone": "somebody else has taken it off.",
    "not_kept": "its original was not kept as a whole (it was too large, or carried a credential); send it anew.",
    "ended": "what it would send has ended; the record of its job says how that is.",
    "not_failed": "its job is not failed any more; the dead letter was taken off.",
}


def _letters(client: Client) -> DeadLetters:
    from daemon.dead_letters import DeadLetters

    return DeadLetters(client.redis, client.keys)


async def _chosen(
    session: Session, letters: DeadLetters, idents: Sequence[str] | None, reason: str | None, everything: bool
) -> list[DeadLetter]:
    if sum((bool(idents), reason is not None, everything)) != 1:
        raise CommandError("Say which dead letters are meant: their ids, --reason REASON, or --all.", USAGE)
    if idents:
        return await _named(letters, idents)
    return await letters.newest(MOST_AT_ONCE, reason=reason, tenant=session.given_tenant)


async def _named(letters: DeadLetters, idents: Sequence[str]) -> list[DeadLetter]:
    found = []
    for ident in idents:
        letter = await letters.get(ident)
        if letter is None:
            raise CommandError(f'There is no dead letter "{ident}".', code="not_found")
        found.append(letter)
    return found


def _name(letter: DeadLetter) -> str:
    return f"{letter.batch}/{letter.item}" if letter.batch else letter.item or letter.job


def _tell_counts(session: Session, counts: dict[str, int]) -> None:
    if session.as_json:
        session.printer.document(counts)
    elif counts:
        session.printer.table(
            [("REASON", "COUNT"), *((reason, str(count)) for reason, count in counts.items())]
        )
    else:
        session.printer.note("There are no dead letters.")
