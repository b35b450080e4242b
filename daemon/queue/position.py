"""How many wait before an item under the fair turns: arithmetic on the ring and the backlogs; it only reads.

Tenants take turns in a lane, and a tenant's batches (its single jobs are one more) take turns within it. What is
counted is the item's own lane: how often the other lanes come between is their weight, not a place in a queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from daemon.queue.keys import Keys, Uid

MOST_TENANTS = 500  # whose backlogs are counted; of more, each is taken to have enough


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item stands: `ahead` of it in its lane; `beside` waits on the route in other lanes, or for its time."""

    ahead: int
    beside: int


@dataclass(frozen=True, slots=True)
class Ring:
    """A lane as it was read: the tenants with a waiting entry in the order of the stream, and their backlogs.

    `sources` are the lengths of a tenant's backlogs by source, in the order of their turns.
    """

    tenants: Sequence[str]
    sources: Mapping[str, Mapping[str, int]]


class Positions:
    """Finds where items stand in the fair order of one installation."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def place(self, uid: Uid, route: str, lane: str) -> Place | None:
        """How many are served before the item; None when it does not stand in line (it runs, or is not due yet)."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(self._keys.ring(route, lane))
        pipe.lpos(self._keys.backlog(route, lane, uid.tenant, uid.batch), str(uid))
        pipe.zcard(self._keys.waiting(route))
        in_ring, position, waiting = await pipe.execute()
        entries = {tenant.decode(): name.decode() for tenant, name in in_ring.items()}
        is_next = entries.get(uid.tenant) == str(uid)
        if position is None and not is_next:
            return None
        order = await self._order(route, lane, entries)
        ring = Ring(order, await self._backlogs(route, lane, dict.fromkeys([uid.tenant, *order])))
        ahead = ahead_of(ring, uid.tenant, uid.batch, None if is_next else position)
        in_lane = len(order) + sum(sum(sources.values()) for sources in ring.sources.values())
        return Place(ahead, max(0, waiting - in_lane))

    async def first_of(self, tenant: str, batch: str, route: str, lane: str) -> Uid | None:
        """The item of a batch whose turn comes first in a lane, or None when none of them stands in line there."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hget(self._keys.ring(route, lane), tenant)
        pipe.lindex(self._keys.backlog(route, lane, tenant, batch), 0)
        entry, first = await pipe.execute()
        if entry is not None and (uid := Uid.parse(entry.decode())).batch == batch:
            return uid
        return None if first is None else Uid.parse(first.decode())

    async def _order(self, route: str, lane: str, entries: Mapping[str, str]) -> list[str]:
        """The ring's tenants in the order in which their entries will be claimed."""
        if not entries:
            return []
        # Waiting entries are the newest ones of the stream; those before them were claimed and run.
        rows: Any = await self._client.xrevrange(self._keys.stream(route, lane), count=len(entries))
        tenant_of = {uid: tenant for tenant, uid in entries.items()}
        found = [tenant_of.get(fields[b"u"].decode()) for _, fields in reversed(rows)]
        known = [tenant for tenant in found if tenant is not None]
        return [*known, *(tenant for tenant in entries if tenant not in set(known))]

    async def _backlogs(
        self, route: str, lane: str, tenants: Mapping[str, None]
    ) -> dict[str, dict[str, int]]:
        names = list(tenants)[:MOST_TENANTS]
        pipe = self._client.pipeline(transaction=False)
        for tenant in names:
            pipe.lrange(self._keys.turns(route, lane, tenant), 0, -1)
        turns = [[source.decode() for source in row] for row in await pipe.execute()]
        for tenant, sources in zip(names, turns, strict=True):
            for source in sources:
                pipe.llen(self._keys.backlog(route, lane, tenant, source))
        lengths = iter(await pipe.execute())
        return {
            tenant: {source: next(lengths) for source in sources}
            for tenant, sources in zip(names, turns, strict=True)
        }


def ahead_of(ring: Ring, tenant: str, source: str, position: int | None) -> int:
    """How many items of the lane are claimed before one: `position` is its place in its source's backlog, from 0.

    None is the tenant's waiting entry itself. Exact while nothing comes or goes and no batch is held by its cap.
    """
    own = 0 if position is None else _own_ahead(ring, tenant, source, position)
    at = ring.tenants.index(tenant) if tenant in ring.tenants else len(ring.tenants)
    others = 0
    for place, other in enumerate(ring.tenants):
        if other != tenant:
            turns = own + (1 if place < at else 0)
            sources = ring.sources.get(other)
            others += turns if sources is None else min(turns, 1 + sum(sources.values()))
    return own + others


def _own_ahead(ring: Ring, tenant: str, source: str, position: int) -> int:
    sources = ring.sources.get(tenant, {})
    order = list(sources)
    at = order.index(source) if source in order else len(order)
    beside = sum(
        min(length, position + (1 if place < at else 0))
        for place, (name, length) in enumerate(sources.items())
        if name != source
    )
    return position + beside + (1 if tenant in ring.tenants else 0)
