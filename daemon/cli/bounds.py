"""The quotas in force, as several commands read them."""

from __future__ import annotations

from daemon.accounts.quota_store import InForce, quotas_in_force
from daemon.accounts.quota_view import Quotas
from daemon.cli.errors import FAILED, CommandError
from daemon.cli.session import Session
from limiter.limiter import Limiter
from pixmill.client import Client
from pixmill.text import nearest


def limiter_of(client: Client) -> Limiter:
    """The limiter of the client's installation, to look at and to pause."""
    return Limiter(client.redis, client.keys.prefix)


def quotas_of(client: Client) -> Quotas:
    """The quotas of the client's installation, to look at and to pause."""
    return Quotas(client.redis, client.keys, limiter_of(client))


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
