"""`pixmill dead`: look at entries and items that ended as dead letters, retry or purge them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import typer

from daemon.cli.errors import ALL_WELL, FAILED, PARTLY, USAGE, CommandError
from daemon.cli.options import duration_s
from daemon.cli.session import Session, command
from daemon.queue.dead_letters import DeadLetter, DeadLetters, Retried
from limiter.quota.quota import QuotaError, Window, parse_quota

MOST_AT_ONCE = 100_000
PURGED_AT_ONCE = 500

Reason = Annotated[str | None, typer.Option(help="Only those with this reason.")]
Idents = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters, as `dead list` names them.")
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]

_NOT_AGAIN: dict[Retried, str] = {
    "gone": "another command has taken it off.",
    "not_kept": "its original was not kept as a whole (it was too large, or carried a credential); send it anew.",
    "ended": "the work behind it has ended; the record of its job shows how.",
    "no_record": "the record of its job has expired or was deleted; send the job anew if it is still wanted.",
    "not_failed": "its job is not failed any more; the dead letter was taken off.",
}

dead = typer.Typer(help="Look at dead letters, retry or purge them.", no_args_is_help=True)


@dead.command("list")
@command
async def list_(
    session: Session,
    group_by: Annotated[
        str | None, typer.Option("--group-by", help="`reason`: count instead of list.")
    ] = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_AT_ONCE, help="How many at most.")] = 20,
) -> int:
    """List dead letters, newest first, or count them by reason.

    A dead letter is an entry that was refused or an item that was given up.

        pixmill dead list --group-by reason
    """
    if group_by not in (None, "reason"):
        raise CommandError("--group-by knows only `reason`.", USAGE)
    empty = "There are no dead letters."
    async with _letters(session) as letters:
        if group_by is not None:
            counts = await letters.by_reason(tenant=session.given_tenant)
            rows = [(name, str(count)) for name, count in counts.items()]
            return session.printer.table(counts, rows, ("REASON", "COUNT"), empty=empty)
        found = await letters.newest(limit, reason=reason, tenant=session.given_tenant)
    return session.printer.table(
        [letter.as_dict() for letter in found],
        [
            (one.entry, one.at[:19], one.reason, one.field_path or "-", one.tenant, _name(one), one.sentence)
            for one in found
        ],
        ("ID", "AT", "REASON", "FIELD", "TENANT", "JOB", "WHY"),
        empty=empty,
    )


@dead.command()
@command
async def show(session: Session, ident: Annotated[str, typer.Argument(metavar="ID")]) -> int:
    """Show one dead letter as a whole, with the original fields.

    `pixmill dead list` shows the ids.

        pixmill dead show 1767225600000-0
    """
    async with _letters(session) as letters:
        [letter] = await _named(letters, [ident])
    document = letter.as_dict()
    lines = [
        f"dead letter {letter.entry} of {_name(letter)} (tenant {letter.tenant})",
        f"  {letter.reason} at {letter.at}, after {letter.attempts} attempts",
        f"  {letter.sentence}",
    ]
    if (place := letter.place) is not None:
        where = f"line {place.line}, column {place.column} of `data`"
        lines.append(f"  `{place.field}` is {place.shown}: {where}" if place.field else f"  {where}")
    lines += [f"  {name}: {value}" for name, value in document["original"].items()]
    if not letter.original:
        lines.append("  The original was not kept.")
    return session.printer.answer(document, *lines)


@dead.command()
@command
async def retry(
    session: Session,
    idents: Idents = None,
    reason: Reason = None,
    everything: All = False,
    rate: Annotated[
        str | None, typer.Option(metavar="N/PERIOD", help="At most so many, such as 2/s or 100/min.")
    ] = None,
) -> int:
    """Try dead letters again: named ones, all of a reason, or all; the oldest first.

    First fix what the reason names (a missing route, for example); otherwise they come back.
    Each is tried again once, also when the command is interrupted and begun again.

        pixmill dead retry --reason unknown_route --rate 2/s
    """
    pause_s = _pause_s(rate)
    outcomes: dict[str, Retried] = {}
    async with _letters(session) as letters:
        try:
            async for letter in _chosen(session, letters, (idents, reason, everything), None):
                if outcomes:
                    await asyncio.sleep(pause_s)
                outcomes[letter.entry] = await letters.retry(letter)
        except asyncio.CancelledError:
            done = len(outcomes) - len(_left(outcomes))
            session.printer.note(f"Stopped after {done}; the same command goes on with the rest.")
            raise
    left = _left(outcomes)
    again = len(outcomes) - len(left)
    session.printer.answer(
        {"retried": again, "outcomes": outcomes},
        f"{again} of {len(outcomes)} tried again",
        note="\n".join(f"{entry}: {why}" for entry, why in left.items()),
    )
    return ALL_WELL if not left else PARTLY if again else FAILED


@dead.command()
@command
async def purge(
    session: Session,
    idents: Idents = None,
    reason: Reason = None,
    everything: All = False,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those that are older, such as 12h or 7d.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Throw dead letters away: named ones, all of a reason, all, or those that are older than a time.

    The original fields are gone then.

        pixmill dead purge --reason malformed --older-than 7d --yes
    """
    age_s = duration_s("--older-than", older_than)
    async with _letters(session) as letters:
        found = _chosen(session, letters, (idents, reason, everything), age_s)
        chosen = [letter.entry async for letter in found]
        if chosen and not yes and not _confirmed(f"Throw {len(chosen)} dead letters away?"):
            raise CommandError("Nothing was thrown away; --yes does it without a question.", USAGE)
        purged = 0
        for start in range(0, len(chosen), PURGED_AT_ONCE):
            purged += await letters.purge(chosen[start : start + PURGED_AT_ONCE])
    return session.printer.answer({"purged": purged}, f"{purged} purged")


@asynccontextmanager
async def _letters(session: Session) -> AsyncIterator[DeadLetters]:
    async with session.client() as client:
        yield DeadLetters(client.redis, client.keys)


async def _chosen(
    session: Session,
    letters: DeadLetters,
    choice: tuple[list[str] | None, str | None, bool],
    age_s: float | None,
) -> AsyncIterator[DeadLetter]:
    """The chosen dead letters: by ids, by reason, or all; raises CommandError for any other choice."""
    idents, reason, everything = choice
    ways = sum((bool(idents), reason is not None, everything))
    if ways > 1 or (ways == 0 and age_s is None):
        raise CommandError("Name the dead letters: their ids, --reason REASON, or --all.", USAGE)
    if idents and age_s is not None:
        raise CommandError("--older-than goes with --reason or --all, not with ids.", USAGE)
    for letter in await _named(letters, idents or ()):
        yield letter
    if not idents:
        tenant = session.given_tenant
        async for letter in letters.oldest_first(reason=reason, tenant=tenant, older_than_s=age_s or 0.0):
            yield letter


async def _named(letters: DeadLetters, idents: Sequence[str]) -> list[DeadLetter]:
    found = []
    for ident in idents:
        letter = await letters.get(ident)
        if letter is None:
            raise CommandError(f'There is no dead letter "{ident}".', code="not_found")
        found.append(letter)
    return found


def _left(outcomes: dict[str, Retried]) -> dict[str, str]:
    """Why some were not tried again, by entry."""
    return {entry: _NOT_AGAIN[outcome] for entry, outcome in outcomes.items() if outcome in _NOT_AGAIN}


def _pause_s(rate: str | None) -> float:
    """Seconds between two retries; 0 without a rate."""
    if rate is None:
        return 0.0
    with suppress(QuotaError):
        if (limit := parse_quota("rate", {"requests": rate}).limit(Window)) is not None:
            return limit.period_us / limit.count / 1e6
    raise CommandError(f'--rate: "{rate}" is not a rate; write one such as 2/s or 100/min.', USAGE)


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # there is no terminal to answer
        return False


def _name(letter: DeadLetter) -> str:
    return f"{letter.batch}/{letter.item}" if letter.batch else letter.item or letter.job
