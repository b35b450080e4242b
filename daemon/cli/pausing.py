"""`pixmill pause` and `pixmill resume`: no new calls of the whole fleet, of a route or of a batch, until it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.exits import ALL_WELL, FAILED, USAGE, CommandError
from daemon.cli.session import Session, command

if TYPE_CHECKING:
    from daemon.client import Client
    from daemon.queue.pauses import Pause, Scope
    from daemon.queue.records import View

PAUSE_HELP = """Begin no new call: on the whole fleet, on a route, or of a batch, until it is resumed or for a time.

What runs goes on and is kept; what waits keeps its place. `pixmill quota pause` pauses an account.

    pixmill pause --reason "new prompts come at noon" --for 2h
    pixmill pause --route slides
    pixmill pause autumn-skus
"""
RESUME_HELP = """End a pause of the whole fleet, of a route or of a batch.

    pixmill resume
    pixmill resume --route slides
    pixmill resume autumn-skus
"""

Batch = Annotated[str | None, typer.Argument(metavar="[BATCH]", help="A batch; without it, all work.")]
RouteOption = Annotated[str | None, typer.Option("--route", help="Only the work of this route.")]


def register(app: typer.Typer) -> None:
    app.command("pause", help=PAUSE_HELP)(pause)
    app.command("resume", help=RESUME_HELP)(resume)


@command
async def pause(
    session: Session,
    ident: Batch = None,
    route: RouteOption = None,
    reason: Annotated[str, typer.Option("--reason", help="Shown to everybody who looks.")] = "",
    duration: Annotated[
        str | None, typer.Option("--for", help="Resume by itself after this time, such as 10min.")
    ] = None,
) -> int:
    from daemon.cli.quotas import duration_s
    from daemon.queue import pauses

    if ident is not None and duration is not None:
        raise CommandError("A batch is paused until it is resumed; leave out --for.", USAGE)
    for_s = None if duration is None else duration_s(duration)
    async with session.client() as client:
        scope, name = await _target(session, client, ident, route)
        reason = " ".join(reason.split())
        answer = await pauses.pause(client.redis, client.keys, scope, name, reason=reason, for_s=for_s)
    if answer != "ok":
        raise CommandError(f"{ident} has ended, so there is nothing to pause.", FAILED, code="ended")
    held = pauses.Pause(scope, route or ident or "", reason, for_s)
    if session.as_json:
        session.printer.document({"paused": True, **held.as_dict()})
    else:
        session.printer.line(f"{ident}: {held.sentence}" if ident else held.sentence)
        session.printer.note(f"resume it with: {_resume_command(ident, route)}")
    return ALL_WELL


@command
async def resume(session: Session, ident: Batch = None, route: RouteOption = None) -> int:
    from daemon.queue import pauses

    async with session.client() as client:
        scope, name = await _target(session, client, ident, route)
        resumed = await pauses.resume(client.redis, client.keys, scope, name) == "resumed"
        others = [] if ident else list((await pauses.read_pauses(client.redis, client.keys)).values())
    what = ident or (f"route {route}" if route else "the whole fleet")
    if session.as_json:
        session.printer.document({"scope": scope, "name": route or ident or "", "resumed": resumed})
    else:
        session.printer.line(f"{what}: {'resumed' if resumed else 'nothing to resume, it was not paused'}")
        for other in others:
            session.printer.note(f"note: {other.sentence}")
    return ALL_WELL


async def pause_of(client: Client, view: View) -> Pause | None:
    """What holds a batch or a job back that has not ended: its own pause, the fleet's or its route's."""
    from daemon.queue.pauses import Pause, pause_over, read_pauses
    from daemon.queue.records import GroupView

    if view.ended:
        return None
    if isinstance(view, GroupView):
        group: GroupView | None = view
    else:
        group = await client.records.group(view.group) if view.group is not None else None
    if group is not None and group.paused is not None:
        return Pause("batch", group.id, group.paused)
    return pause_over(await read_pauses(client.redis, client.keys), view.route)


async def _target(
    session: Session, client: Client, ident: str | None, route: str | None
) -> tuple[Scope, str]:
    """What is meant, by the names of the pauses; raises CommandError."""
    from daemon.queue.records import GroupView

    if ident is not None and route is not None:
        raise CommandError("Name a batch or a --route, not both.", USAGE)
    if route is not None:
        return "route", _known(session, route)
    if ident is None:
        return "fleet", ""
    view = await client.status(ident)
    if view is None:
        raise session.unknown(ident)
    if not isinstance(view, GroupView) or view.kind != "batch":
        raise CommandError(
            f"{ident} is a single job, which has no pause of its own: cancel it, or pause its route.", FAILED
        )
    return "batch", view.gid


def _known(session: Session, route: str) -> str:
    """The name of a configured route; where no route is configured here, it is taken as it is."""
    from daemon.settings.model import did_you_mean

    configured = session.settings.routes
    if configured and route not in configured:
        hint = did_you_mean(route, configured)
        raise CommandError(f'There is no route "{route}"{hint}', FAILED, code="unknown_route")
    return route


def _resume_command(ident: str | None, route: str | None) -> str:
    return " ".join(["pixmill resume", *(["--route", route] if route else []), *([ident] if ident else [])])
