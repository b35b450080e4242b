"""`pixmill pause` and `pixmill resume`: whether the fleet, a route or a batch begins new calls."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon.cli.errors import FAILED, USAGE, CommandError
from daemon.cli.options import ForOption, ReasonOption, duration_s
from daemon.cli.session import Session, command
from daemon.queue import pauses
from daemon.settings.model import did_you_mean
from pixmill.client import Client
from pixmill.records.records import GroupView

Batch = Annotated[str | None, typer.Argument(metavar="[BATCH]", help="A batch; without it, all work.")]
RouteOption = Annotated[str | None, typer.Option("--route", help="Only the work of this route.")]


@command
async def pause(
    session: Session,
    ident: Batch = None,
    route: RouteOption = None,
    reason: ReasonOption = "",
    duration: ForOption = None,
) -> int:
    """Stop new calls of the whole fleet, of a route or of a batch, until it is resumed or for a time.

    Running items go on and are kept; waiting items keep their place. `pixmill quota pause` pauses an account.

        pixmill pause --reason "new prompts come at noon" --for 2h
        pixmill pause --route slides
        pixmill pause autumn-skus
    """
    if ident is not None and duration is not None:
        raise CommandError("A batch is paused until it is resumed; leave out --for.", USAGE)
    for_s = duration_s("--for", duration)
    async with session.fleet() as client:
        scope, name = await _target(session, client, ident, route)
        reason = " ".join(reason.split())
        reply = await pauses.pause(client.redis, client.keys, scope, name, reason=reason, for_s=for_s)
    if reply != "ok":
        raise CommandError(f"{ident} has ended, so there is nothing to pause.", FAILED, code="ended")
    made = pauses.Pause(scope, route or ident or "", reason, for_s)
    target = ["--route", route] if route else [ident] if ident else []
    return session.printer.answer(
        {"paused": True, **made.as_dict()},
        f"{ident}: {made.sentence}" if ident else made.sentence,
        note=f"resume it with: {session.hint('resume', *target)}",
    )


@command
async def resume(session: Session, ident: Batch = None, route: RouteOption = None) -> int:
    """End a pause of the whole fleet, of a route or of a batch.

    Pauses that are left are listed.

        pixmill resume
        pixmill resume --route slides
        pixmill resume autumn-skus
    """
    async with session.fleet() as client:
        scope, name = await _target(session, client, ident, route)
        resumed = await pauses.resume(client.redis, client.keys, scope, name) == "resumed"
        left = {} if ident else await pauses.read_pauses(client.redis, client.keys)
    what = ident or (f"route {route}" if route else "the whole fleet")
    return session.printer.answer(
        {"scope": scope, "name": route or ident or "", "resumed": resumed},
        f"{what}: {'resumed' if resumed else 'nothing to resume, it was not paused'}",
        note="\n".join(f"note: {other.sentence}" for other in left.values()),
    )


async def _target(
    session: Session, client: Client, ident: str | None, route: str | None
) -> tuple[pauses.Scope, str]:
    """The scope and the name of the pause; raises CommandError. Without configured routes any name is taken."""
    if ident is not None and route is not None:
        raise CommandError("Name a batch or a --route, not both.", USAGE)
    if route is not None:
        configured = session.settings.routes
        if configured and route not in configured:
            hint = did_you_mean(route, configured)
            raise CommandError(f'There is no route "{route}"{hint}', FAILED, code="unknown_route")
        return "route", route
    if ident is None:
        return "fleet", ""
    view = await session.find(client, ident)
    if not isinstance(view, GroupView) or view.kind != "batch":
        raise CommandError(
            f"{ident} is a single job, which has no pause of its own: cancel it, or pause its route.", FAILED
        )
    return "batch", view.gid
