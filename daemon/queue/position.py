"""Computes an item's position in the fair order from the ring and the backlogs; it only reads.

Tenants take turns in a lane. A tenant's batches take turns within it, and its single jobs count as one more batch. The
position counts the item's own lane only, since weights decide when the other lanes come between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.asyncio import Redis

from daemon.queue.steps import LATE_S, GroupCommit
from pixmill.records.keys import Keys, Uid

MOST_TENANTS = 500  # tenants whose backlogs are counted; each further one counts as having enough items


@dataclass(frozen=True, slots=True)
class Place:
    """An item's position: `ahead` items stand before it in its lane; `beside` wait in other lanes or for their time."""

    ahead: int
    beside: int


@dataclass(frozen=True, slots=True)
class Ring:
    """One reading of a lane: its tenants with a waiting entry, in the order of the stream, and their backlogs.

    `sources` are the lengths of a tenant's backlogs by source, in the order of their turns.
    """

    tenants: Sequence[str]
    sources: Mapping[str, Mapping[str, int]]


class _Look(NamedTuple):
    uid: Uid
    route: str
    lane: str
    is_new: bool


class _Seen(NamedTuple):
    entries: Mapping[str, str]  # the waiting entry of each tenant in the lane
    waiting: int  # items of the route
    position: int | None  # of the item in its backlog, from 0


class Positions:
    """Finds where items stand in the fair order of one installation."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._looks = GroupCommit(self._look_round, late_s=LATE_S)
        self._rings: dict[tuple[str, str], tuple[float, Ring]] = {}  # the last reading of each lane

    async def place(
        self, uid: Uid, route: str, lane: str, *, max_age_s: float = 0.0, is_new: bool = False
    ) -> Place | None:
        """How many items come before this one; None if it is not in line, because it runs or is not due yet.

        The order of the tenants and the lengths of their backlogs may come from a reading of the last `max_age_s`, for
        callers that need places often. The item's own place in its backlog is always read; that of an item that
        `is_new` is looked for from the end of a backlog, which may be long.
        """
        entries, waiting, position = await self._looks.submit(_Look(uid, route, lane, is_new))
        is_next = entries.get(uid.tenant) == str(uid)
        if position is None and not is_next:
            return None
        ring = await self._ring(route, lane, entries, uid.tenant, max_age_s)
        ahead = ahead_of(ring, uid.tenant, uid.batch, None if is_next else position)
        in_lane = len(ring.tenants) + sum(sum(sources.values()) for sources in ring.sources.values())
        return Place(ahead, max(0, waiting - in_lane))

    async def _look_round(self, looks: Sequence[_Look]) -> list[_Seen]:
        """The lanes that several callers want to see, each once."""
        pipe = self._client.pipeline(transaction=False)
        lanes = list(dict.fromkeys((look.route, look.lane) for look in looks))
        for route, lane in lanes:
            pipe.hgetall(self._keys.ring(route, lane))
            pipe.zcard(self._keys.waiting(route))
        for uid, route, lane, is_new in looks:
            backlog = self._keys.backlog(route, lane, uid.tenant, uid.batch)
            pipe.lpos(backlog, str(uid), rank=-1 if is_new else 1)
        replies = await pipe.execute()
        rings = {
            at: {tenant.decode(): name.decode() for tenant, name in ring.items()}
            for at, ring in zip(lanes, replies[0 : 2 * len(lanes) : 2], strict=True)
        }
        waiting = dict(zip(lanes, replies[1 : 2 * len(lanes) : 2], strict=True))
        found = zip(looks, replies[2 * len(lanes) :], strict=True)
        return [
            _Seen(rings[look.route, look.lane], waiting[look.route, look.lane], position)
            for look, position in found
        ]

    async def _ring(
        self, route: str, lane: str, entries: Mapping[str, str], tenant: str, max_age_s: float
    ) -> Ring:
        read_at, ring = self._rings.get((route, lane), (0.0, None))
        if ring is None or time.monotonic() - read_at >= max_age_s:
            order = await self._order(route, lane, entries)
            ring = Ring(order, await self._backlogs(route, lane, dict.fromkeys([tenant, *order])))
            self._rings[route, lane] = time.monotonic(), ring
            return ring
        known = [name for name in ring.tenants if name in entries]
        # A tenant that came since has its waiting entry, and perhaps more.
        new: dict[str, Mapping[str, int]] = {name: {} for name in entries if name not in set(ring.tenants)}
        return Ring([*known, *new], {**new, **ring.sources})

    async def first_of(self, tenant: str, batch: str, route: str, lane: str) -> Uid | None:
        """The next item of a batch in a lane, or None if the batch has no item in line there."""
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
        # Waiting entries are the newest of the stream; the entries before them were claimed and run.
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
    """How many items of the lane are claimed before one at `position` of its source's backlog, from 0.

    None stands for the tenant's waiting entry. Exact while the lane does not change and no batch is at its cap.
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
