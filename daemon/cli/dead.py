"""`pixmill dead`: entries and items that ended as dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.exits import ALL_WELL, FAILED, PARTLY, USAGE, CommandError
from daemon.cli.session import Session, command

if TYPE_CHECKING:
    from daemon.client import Client
    from daemon.queue.dead_letters import DeadLetter, DeadLetters, Retried

LIST_HELP = """List dead letters, newest first, or count them by reason.

    pixmill dead list --group-by reason
"""
SHOW_HELP = """Show one dead letter as a whole, with the original fields.

    pixmill dead show 1767225600000-0
"""
RETRY_HELP = """Try dead letters again: named ones, all of a reason, or all; the oldest first.

Fix what the reason says first (a missing route, say); otherwise they come back. Each is tried again once, also when
this is interrupted and begun again.

    pixmill dead retry --reason unknown_route --rate 2/s
"""
PURGE_HELP = """Throw dead letters away: named ones, all of a reason, all, or those that are older than a time.

    pixmill dead purge --reason malformed --older-than 7d --yes
"""
MOST_AT_ONCE = 100_000
PURGED_AT_ONCE = 500

Reason = Annotated[str | None, typer.Option(help="Only those with this reason.")]
Idents = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters, as `dead list` names them.")
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Rate = Annotated[
    str | None, typer.Option(metavar="N/PERIOD", help="At most so many, such as 2/s or 100/min.")
]
OlderThan = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only those that are older, such as 12h or 7d.")
]


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
        rows = [("ID", "AT", "REASON", "FIELD", "TENANT", "JOB", "WHY")]
        rows += [
            (one.entry, one.at[:19], one.reason, one.field_path or "-", one.tenant, _name(one), one.sentence)
            for one in found
        ]
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
    if (place := letter.place) is not None:
        where = f"line {place.line}, column {place.column} of `data`"
        session.printer.line(f"  `{place.field}` is {place.shown}: {where}" if place.field else f"  {where}")
    for name, value in letter.as_dict()["original"].items():
        session.printer.line(f"  {name}: {value}")
    if not letter.original:
        session.printer.line("  The original was not kept.")
    return ALL_WELL


@command
async def retry(
    session: Session, idents: Idents = None, reason: Reason = None, everything: All = False, rate: Rate = None
) -> int:
    import asyncio

    pause_s = _pause_s(rate)
    outcomes: dict[str, Retried] = {}
    async with session.client() as client:
        letters = _letters(client)
        try:
            async for letter in _chosen(session, letters, idents, _meant(idents, reason, everything)):
                if outcomes:
                    await asyncio.sleep(pause_s)
                outcomes[letter.entry] = await letters.retry(letter)
        except asyncio.CancelledError:
            session.printer.note(f"Stopped after {_again(outcomes)}; the same command goes on with the rest.")
            raise
    again = _again(outcomes)
    if session.as_json:
        session.printer.document({"retried": again, "outcomes": outcomes})
    else:
        session.printer.line(f"{again} of {len(outcomes)} tried again")
        for entry, outcome in outcomes.items():
            if outcome in _NOT_AGAIN:
                session.printer.note(f"{entry}: {_NOT_AGAIN[outcome]}")
    if again == len(outcomes):
        return ALL_WELL
    return PARTLY if again else FAILED


@command
async def purge(
    session: Session,
    idents: Idents = None,
    reason: Reason = None,
    everything: All = False,
    older_than: OlderThan = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    age_s = _age_s(older_than)
    meant = _meant(idents, reason, everything, aged=older_than is not None)
    async with session.client() as client:
        letters = _letters(client)
        chosen = [letter.entry async for letter in _chosen(session, letters, idents, meant, age_s)]
        if chosen and not yes and not _confirmed(f"Throw {len(chosen)} dead letters away?"):
            raise CommandError("Nothing was thrown away; --yes does it without asking.", USAGE)
        purged = 0
        for start in range(0, len(chosen), PURGED_AT_ONCE):
            purged += await letters.purge(chosen[start : start + PURGED_AT_ONCE])
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
    from daemon.queue.dead_letters import DeadLetters

    return DeadLetters(client.redis, client.keys)


def _meant(
    idents: Sequence[str] | None, reason: str | None, everything: bool, *, aged: bool = False
) -> str | None:
    """The reason that is meant, None for any; raises CommandError unless it was said what is meant, once."""
    ways = sum((bool(idents), reason is not None, everything))
    if ways > 1 or (ways == 0 and not aged):
        more = ", --older-than TIME" if aged else ""
        raise CommandError(
            f"Say which dead letters are meant: their ids, --reason REASON{more}, or --all.", USAGE
        )
    if idents and aged:
        raise CommandError("--older-than goes with --reason or --all; these are named by their ids.", USAGE)
    return reason


async def _chosen(
    session: Session,
    letters: DeadLetters,
    idents: Sequence[str] | None,
    reason: str | None,
    older_than_s: float = 0.0,
) -> AsyncIterator[DeadLetter]:
    if idents:
        for letter in await _named(letters, idents):
            yield letter
        return
    found = letters.oldest_first(reason=reason, tenant=session.given_tenant, older_than_s=older_than_s)
    async for letter in found:
        yield letter


def _pause_s(rate: str | None) -> float:
    """Seconds between two; none without a rate."""
    if rate is None:
        return 0.0
    from limiter.quota.quota import QuotaError, Window, parse_quota

    try:
        (limit,) = parse_quota("rate", {"requests": rate}).limits
    except QuotaError:
        raise CommandError(f'--rate: "{rate}" is no rate; write such as 2/s or 100/min.', USAGE) from None
    assert isinstance(limit, Window)  # noqa: S101 - what a text is read as
    return limit.period_us / limit.count / 1e6


def _age_s(older_than: str | None) -> float:
    if older_than is None:
        return 0.0
    from daemon.settings import parse_duration

    try:
        return parse_duration(older_than)
    except ValueError:
        raise CommandError(
            f'--older-than: "{older_than}" is no time; write such as 12h or 7d.', USAGE
        ) from None


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # nobody is there to answer
        return False


def _again(outcomes: Mapping[str, Retried]) -> int:
    return sum(outcome in ("requeued", "resent") for outcome in outcomes.values())


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
