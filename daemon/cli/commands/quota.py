"""`pixmill quota pause | resume | set`: changes of an operator to a quota, for the whole running fleet."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daemon.accounts import quota_store
from daemon.accounts.quota_store import InForce
from daemon.accounts.words import utc
from daemon.cli.bounds import check_quota, in_force, limiter_of, quotas_of
from daemon.cli.errors import USAGE, CommandError
from daemon.cli.options import ForOption, ReasonOption, duration_s, limits_table
from daemon.cli.output import seconds
from daemon.cli.session import Session, command
from limiter.explain import spelled
from limiter.quota.quota import QuotaError

Name = Annotated[str, typer.Argument(metavar="NAME", help="A quota, as `pixmill quotas` names it.")]

quota = typer.Typer(help="Pause, resume or set a quota, for all replicas.", no_args_is_help=True)


@quota.command()
@command
async def pause(session: Session, name: Name, reason: ReasonOption = "", duration: ForOption = None) -> int:
    """Stop all calls under a quota, on every replica, until it is resumed or for a time.

    Running items go on; waiting items keep their place.

        pixmill quota pause openai-main --reason "invoice dispute" --for 10min
    """
    for_s = duration_s("--for", duration)
    reason = " ".join(reason.split())
    async with session.fleet() as client:
        check_quota(session, name)
        until = await quotas_of(client).pause(name, reason, for_s)
    document = {"quota": name, "paused": True, "reason": reason, "until": None}
    if until is None or for_s is None:
        line, note = (
            f"{name}: paused, no replica sends under it",
            f"resume it with: {session.hint('quota resume', name)}",
        )
        return session.printer.answer(document, line, note=note)
    return session.printer.answer(
        document | {"until": until.isoformat(timespec="milliseconds")},
        f"{name}: paused for {seconds(for_s)}, until {utc(until)}",
    )


@quota.command()
@command
async def resume(session: Session, name: Name) -> int:
    """End a pause. A cooldown that the provider set stays.

    Without a pause nothing changes.

        pixmill quota resume openai-main
    """
    async with session.fleet() as client:
        check_quota(session, name)
        resumed = await quotas_of(client).resume(name)
        (now,) = await limiter_of(client).explain([(await in_force(session, client))[name].quota])
    done = "resumed" if resumed else "nothing to resume, it was not paused"
    return session.printer.answer({"quota": name, "resumed": resumed}, f"{name}: {done}; {now.sentence}")


@quota.command("set")
@command
async def set_(
    session: Session,
    name: Name,
    limits: Annotated[
        list[str] | None,
        typer.Argument(metavar="LIMIT=VALUE", help="As in a configuration: images=20/min, in_flight=8."),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Return to the configuration.")] = False,
) -> int:
    """Change limits of a quota, on every replica within seconds, until they are reset.

    A named limit takes the place of the same limit of the configuration; the others stay, and restarts keep it.

        pixmill quota set openai-main images=10/min in_flight=4
        pixmill quota set openai-main 'requests={ rate = "50/min", burst = 5 }'
        pixmill quota set openai-main --reset
    """
    if bool(limits) == reset:
        as_configured = session.hint("quota set", name, "--reset")
        raise CommandError(
            f"Name the limits to set, as in `{_example(session, name)}`, or `{as_configured}`.", USAGE
        )
    return await (_reset(session, name) if reset else _set(session, name, limits or []))


async def _set(session: Session, name: str, limits: list[str]) -> int:
    fields = limits_table(limits)
    async with session.fleet() as client:
        check_quota(session, name)
        configured = session.settings.quotas[name]
        try:
            now = await quota_store.set_limits(client.redis, client.keys, name, configured, fields)
        except QuotaError as error:
            raise CommandError(f"{error}; on the command line: {_example(session, name)}", USAGE) from None
    document = _as_dict(now)
    return session.printer.answer(
        document,
        f"{name}: set to {', '.join(document['limits'])} (configured: {', '.join(document['configured'])})",
        note="replicas follow within seconds; return to the configuration with: "
        + session.hint("quota set", name, "--reset"),
    )


def _example(session: Session, name: str) -> str:
    return session.hint("quota set", name, "images=20/min", "in_flight=8")


async def _reset(session: Session, name: str) -> int:
    async with session.fleet() as client:
        was_set = await quota_store.reset(client.redis, client.keys, name)
    # Limits of a quota that is no longer configured can be reset as well.
    if was_set and name not in session.settings.quotas:
        return session.printer.answer(
            {"quota": name, "reset": True}, f"{name}: reset; it is not configured here"
        )
    check_quota(session, name)
    document = _as_dict(quota_store.in_force(name, session.settings.quotas[name], None))
    done = "as configured again" if was_set else "nothing to reset, it is as configured"
    return session.printer.answer(
        {**document, "reset": was_set}, f"{name}: {done}: {', '.join(document['limits'])}"
    )


def _as_dict(now: InForce) -> dict[str, Any]:
    return {
        "quota": now.quota.name,
        "limits": [spelled(limit) for limit in now.quota.limits],
        "configured": [spelled(limit) for limit in now.configured.limits],
        "set_at": now.set_at,
    }
