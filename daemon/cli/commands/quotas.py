"""`pixmill quotas`: what each quota has left, what holds its next call back, and until when."""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from daemon.accounts.quota_store import InForce
from daemon.accounts.quota_view import Look
from daemon.cli.bounds import quotas_of
from daemon.cli.errors import USAGE, CommandError
from daemon.cli.session import Session, command
from daemon.queue.pauses import FLEET, Pause, read_pauses
from limiter import QuotaState
from limiter.explain import spelled, wait_text
from pixmill.client import Client
from pixmill.text import visible

LOOK_S = 1.0  # between two updates of --watch


@command
async def quotas(
    session: Session,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")] = False,
) -> int:
    """Show each quota: its limits, what is left, what holds the next call back, and until when.

    Looking charges nothing.

        pixmill quotas --watch
    """
    if watch and session.as_json:
        raise CommandError("--json prints one document; leave out --watch.", USAGE)
    async with session.fleet() as client:
        if not session.settings.parsed_quotas():
            return session.printer.answer(
                [], note="No quota is configured: nothing limits the pace of calls."
            )
        if watch:
            await _watch(session, client)
        pauses, looks = await _look(session, client)
    document = [
        look.as_dict() | {"work_paused": _over(session, pauses, look.now.quota.name)} for look in looks
    ]
    return session.printer.answer(document, *_lines(pauses, looks))


Pauses = dict[str, Pause]


async def _look(session: Session, client: Client) -> tuple[Pauses, list[Look]]:
    session.settings.parsed_quotas()
    looks = await quotas_of(client).look(session.settings.quotas)
    return await read_pauses(client.redis, client.keys), looks


def _lines(pauses: Pauses, looks: list[Look]) -> list[str]:
    """A line for each pause of work (it stops calls under any quota), then a line for each quota."""
    return [
        *(pause.sentence for pause in pauses.values()),
        *(
            f"{look.why.state.quota} ({', '.join(look.why.limits)}{_mark(look.now)}): "
            f"{look.why.sentence}{_polls(look.polls)}"
            for look in looks
        ),
    ]


def _polls(state: QuotaState) -> str:
    """How long the provider wants no poll of the account's tasks; empty if it has refused none."""
    if not state.cooldown_s:
        return ""
    return f"; polls pause for {wait_text(state.cooldown_s)} more ({state.cooldown_reason})"


def _mark(now: InForce) -> str:
    """The source of a quota's limits; empty if that is the configuration."""
    if now.problem is not None:
        return f"; as configured, because the limits that an operator set cannot be read: {now.problem}"
    if now.set_at is None:
        return ""
    on = f" on {now.set_at[:19].replace('T', ' ')}Z" if now.set_at else ""
    return f"; set by an operator{on}, configured: {', '.join(map(spelled, now.configured.limits))}"


def _over(session: Session, pauses: Pauses, quota: str) -> list[dict[str, Any]]:
    """The pauses of the fleet and of routes that spend the quota."""
    routes = [f"route:{name}" for name, route in session.settings.routes.items() if quota in route.quotas]
    return [pauses[name].as_dict() for name in (FLEET, *routes) if name in pauses]


async def _watch(session: Session, client: Client) -> None:
    """On a terminal the lines are replaced in place; in a pipe each line that changed is printed."""
    from rich.live import Live
    from rich.text import Text

    live = Live(auto_refresh=False) if sys.stdout.isatty() else None
    last: list[str] = []
    with live or nullcontext():
        while True:
            lines = _lines(*await _look(session, client))
            if live is not None:
                live.update(Text("\n".join(map(visible, lines))), refresh=True)
            else:
                session.printer.answer(None, *(line for line in lines if line not in last))
            last = lines
            await asyncio.sleep(LOOK_S)
