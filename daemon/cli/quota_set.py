"""`pixmill quota set`: other limits for a quota, for the whole running fleet, until they are reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.exits import ALL_WELL, USAGE, CommandError
from daemon.cli.quotas import PAUSE_HELP, RESUME_HELP, named, pause, resume
from daemon.cli.session import Session, command

if TYPE_CHECKING:
    from daemon.accounts.quota_store import InForce

SET_HELP = """Change limits of a quota, on every replica within seconds, until they are reset.

What is named takes the place of the same limit of the configuration; the others stay, and restarts keep it.

    pixmill quota set openai-main images=10/min in_flight=4
    pixmill quota set openai-main 'requests={ rate = "50/min", burst = 5 }'
    pixmill quota set openai-main --reset
"""


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Pause, resume or set a quota, for all replicas.", no_args_is_help=True)
    group.command("pause", help=PAUSE_HELP)(pause)
    group.command("resume", help=RESUME_HELP)(resume)
    group.command("set", help=SET_HELP)(set_)
    app.add_typer(group, name="quota")


@command
async def set_(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A quota, as `pixmill quotas` names it.")],
    limits: Annotated[
        list[str] | None,
        typer.Argument(metavar="LIMIT=VALUE", help="As in a configuration: images=20/min, in_flight=8."),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Return to the configuration.")] = False,
) -> int:
    if bool(limits) == reset:
        raise CommandError(
            f"Name the limits to set, as in `pixmill quota set {name} images=20/min in_flight=8`, "
            f"or `pixmill quota set {name} --reset`.",
            USAGE,
        )
    if reset:
        return await _reset(session, name)
    return await _set(session, name, limits or [])


async def _set(session: Session, name: str, limits: list[str]) -> int:
    from daemon.accounts.quota_store import set_limits
    from daemon.cli.limits import limits_table
    from limiter.quota.quota import QuotaError

    fields = limits_table(limits)
    named(session, name)
    async with session.client() as client:
        try:
            now = await set_limits(client.redis, client.keys, name, session.settings.quotas[name], fields)
        except QuotaError as error:
            raise CommandError(
                f"{error}; on the command line: pixmill quota set {name} images=20/min in_flight=8", USAGE
            ) from None
    if session.as_json:
        session.printer.document(_as_dict(now))
        return ALL_WELL
    session.printer.line(f"{name}: set to {_told(now)['limits']} (configured: {_told(now)['configured']})")
    session.printer.note(
        f"replicas follow within seconds; return to the configuration with: pixmill quota set {name} --reset"
    )
    return ALL_WELL


async def _reset(session: Session, name: str) -> int:
    from daemon.accounts.quota_store import in_force, reset

    async with session.client() as client:
        was_set = await reset(client.redis, client.keys, name)
    # Also what was set for a quota that is not configured any more can be taken away.
    table: Mapping[str, object] | None = session.settings.quotas.get(name)
    if table is None and was_set:
        if session.as_json:
            session.printer.document({"quota": name, "reset": True})
        else:
            session.printer.line(f"{name}: reset; it is not configured here")
        return ALL_WELL
    named(session, name)
    now = in_force(name, session.settings.quotas[name], None)
    if session.as_json:
        session.printer.document({**_as_dict(now), "reset": was_set})
    else:
        said = "as configured again" if was_set else "nothing to reset, it is as configured"
        session.printer.line(f"{name}: {said}: {_told(now)['limits']}")
    return ALL_WELL


def _told(now: InForce) -> dict[str, str]:
    return {what: ", ".join(limits) for what, limits in _limits(now).items()}


def _as_dict(now: InForce) -> dict[str, object]:
    return {"quota": now.quota.name, **_limits(now), "set_at": now.set_at}


def _limits(now: InForce) -> dict[str, list[str]]:
    from limiter.explain import spelled

    return {
        "limits": [spelled(limit) for limit in now.quota.limits],
        "configured": [spelled(limit) for limit in now.configured.limits],
    }
