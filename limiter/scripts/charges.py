"""A charge is undone, or moved to when its call was sent; the steps behind `Limiter.give_back` and `sent_late`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from limiter.lua import LuaScript
from limiter.permit import Permit
from limiter.quota.limits import IN_FLIGHT
from limiter.quota.quota import Quota
from limiter.server import Server
from limiter.steps import uninterrupted

_HERE: Final = Path(__file__).parent
_GIVE_BACK: Final = LuaScript.load(_HERE, "give_back")
_SENT_LATE: Final = LuaScript.load(_HERE, "sent_late")


async def give_back(server: Server, permit: Permit) -> None:
    """See Limiter.give_back."""
    if not permit.quotas:
        return
    keys = server.keys
    leases = [(keys.leases(quota), weight) for quota, weight in permit.leases]
    charges = list(leases)
    for unit, cost in permit.costs.items():
        if cost and unit != IN_FLIGHT:
            charges += [(book, cost) for quota in permit.quotas for book in keys.books(quota, unit)]
    names, costs = zip(*charges, strict=True) if charges else ((), ())
    await uninterrupted(
        _GIVE_BACK(
            server.client,
            (server.record(permit), *names),
            (permit.grant_id, permit.who, len(leases), *costs),
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
