"""`pixmill explain`: why a job or a batch waits, and until when, in one or two sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from daemon.cli.following import ident_of
from daemon.cli.options import Ident
from daemon.cli.session import Session, command
from daemon.settings import SettingsError
from pixmill.broker.errors import CONNECTION_FAULTS
from pixmill.client import Client
from pixmill.records.records import View

if TYPE_CHECKING:
    from daemon.accounts.why import Why


@command
async def explain(session: Session, ident: Ident) -> int:
    """Explain why a job or a batch is waiting, and until when.

    It names the pause, the quota, the cap or the time that holds it back.

        pixmill explain autumn-skus/sku1-main
    """
    async with session.fleet() as client:
        view = await session.find(client, ident)
        why = await _why(session, client, view, ident)
    return session.printer.answer(why.as_dict(view, ident), f"{ident}: {why.text}")


async def reason_of(session: Session, client: Client, view: View) -> str:
    """The same for a command that follows the work; empty if the quotas here cannot be read.

    Raises what an outage of Redis raises: the caller waits for its end.
    """
    try:
        return (await _why(session, client, view, ident_of(view))).text
    except CONNECTION_FAULTS:
        raise
    except (SettingsError, RedisError):
        return ""


async def _why(session: Session, client: Client, view: View, ident: str) -> Why:
    # The commands that may wait import this module too, and most of them end without a reason.
    from daemon.accounts.why import Hints, Reasons
    from daemon.cli.bounds import limiter_of

    reasons = Reasons(client.redis, client.records, limiter_of(client), session.settings)
    return await reasons.why(
        view, Hints(session.hint("retry", ident, "--held"), session.hint("cancel", ident))
    )
