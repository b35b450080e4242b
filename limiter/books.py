"""A charge is undone, or moved to when its call was sent; the steps behind `Limiter.give_back` and `sent_late`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from limiter.limits import IN_FLIGHT
from limiter.lua import LuaScript
from limiter.permit import Permit
from limiter.quota import Quota
from limiter.server import Server
from limiter.steps import uninterrupted

_PACKAGE: Final = Path(__file__).parent
_GIVE_BACK: Final = LuaScript.load(_PACKAGE, "give_back")
_SENT_LATE: Final = LuaScript.load(_PACKAGE, "sent_late")


async def give_back(server: Server, permit: Permit) -> None:
    """See Limiter.give_back."""
    if not permit.quotas:
        return
    keys = server.keys
    charged = list(_charged(permit))
    logs = [(keys.log(quota, unit), cost) for quota, unit, cost in charged]
    logs += [(keys.leases(quota), weight) for quota, weight in permit.leases]
    tokens = [(keys.tokens(quota, unit), cost) for quota, unit, cost in charged]
    hashes = [
        (key(quota, unit), cost)
        for key in (keys.slices, keys.fixed, keys.day)
        for quota, unit, cost in charged
    ]
    names, costs = zip(*logs, *tokens, *hashes, strict=True) if charged or logs else ((), ())
    await uninterrupted(
        _GIVE_BACK(
            server.client,
            (server.record(permit), *names),
            (permit.grant_id, permit.who, len(logs), len(logs) + len(tokens), *costs),
        )
    )


async def sent_late(server: Server, permit: Permit, quotas: Sequence[Quota]) -> None:
    """See Limiter.sent_late."""
    books = server.plan(quotas, permit.costs).late_books if quotas else ()
    if not books:
        return
    keys = (server.keys.clock, server.record(permit), *(book.key for book in books))
    rows = [
        field
        for place, book in enumerate(books, start=3)
        for field in (place, book.kind, book.cost, book.keep_us)
    ]
    await uninterrupted(_SENT_LATE(server.client, keys, (server.now_us(), permit.grant_id, *rows)))


def _charged(permit: Permit) -> Iterator[tuple[str, str, int]]:
    """(quota, unit, cost) of all that a grant can have been charged, its leases apart."""
    costs = [(unit, cost) for unit, cost in permit.costs.items() if cost and unit != IN_FLIGHT]
    return ((quota, unit, cost) for quota in permit.quotas for unit, cost in costs)
