"""The quotas in force and the pauses of operators, as several commands read them."""

from __future__ import annotations

from daemon.accounts.quota_store import InForce, quotas_in_force
from daemon.cli.errors import FAILED, CommandError
from daemon.cli.session import Session
from daemon.client import Client
from daemon.queue.pauses import Pause, pause_over, read_pauses
from daemon.queue.records import GroupView, View
from limiter.limiter import Limiter
from providers.text import nearest


def limiter_of(client: Client) -> Limiter:
    """The limiter of the client's installation, to look at and to pause."""
    return Limiter(client.redis, client.keys.prefix)


async def in_force(session: Session, client: Client) -> dict[str, InForce]:
    """The configured quotas with the limits that operators set since; raises SettingsError with every problem."""
    session.settings.parsed_quotas()
    return await quotas_in_force(client.redis, client.keys, session.settings.quotas)


def check_quota(session: Session, name: str) -> None:
    """Raise CommandError with the nearest name unless a quota of this name is configured."""
    configured = session.settings.parsed_quotas()
    if name not in configured:
        near = nearest(name, configured, cutoff=0.0)
        hint = f'did you mean "{near}"?' if near else "none is configured."
        raise CommandError(f'There is no quota "{name}"; {hint}', FAILED, code="unknown_quota")


async def pause_of(client: Client, view: View) -> Pause | None:
    """The pause over a batch or a job that has not ended: its own, the fleet's or its route's."""
    if view.ended:
        return None
    group: View | None = view
    if not isinstance(view, GroupView):
        group = await client.records.group(view.group) if view.group is not None else None
    if isinstance(group, GroupView) and group.paused is not None:
        return Pause("batch", group.id, group.paused)
    return pause_over(await read_pauses(client.redis, client.keys), view.route)
