"""Estimates for answers: how many items come before one, when it will be done, and what holds it back until when.

The facts are in Redis: the fair order, the quotas, the pauses, and the length of calls as replicas measure it. Facts of
a route are read at most every LOOK_EVERY_S, since each new job is answered with an estimate. An estimate is no promise,
and it never fails a request: what cannot be read is unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon.accounts.call_times import ahead_of, least_s, read_call_s
from daemon.accounts.quota_store import quotas_in_force
from daemon.accounts.routes import Routes
from daemon.queue.pauses import pause_over, read_pauses
from daemon.queue.position import Place, Positions
from daemon.settings import Settings
from limiter import Bound, Limiter
from limiter.explain import Explanation
from limiter.permit import PAUSED
from limiter.quota.quota import Quota
from limiter.quota.shares import shares
from pixmill.broker.errors import in_words
from pixmill.contract import Job
from pixmill.records.keys import Uid
from pixmill.records.records import Records
from pixmill.records.views import GroupView, ItemView, View, rfc3339

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.5
HELD, PARTS, BATCH_PAUSED, NOT_BEFORE = "held", "parts", "paused:batch", "not_before"


@dataclass(frozen=True, slots=True)
class Outlook:
    """The outlook of some work. None: unknown, or nothing. `position` is the number of items that come before it."""

    position: int | None = None
    eta_s: float | None = None
    bound: str | None = None
    next_slot_at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON answers."""
        at = self.next_slot_at
        return {
            "position": self.position,
            "eta_seconds": None if self.eta_s is None else round(self.eta_s, 1),
            "bound": self.bound,
            "next_slot_at": None if at is None else rfc3339(at),
        }


UNKNOWN = Outlook()
ENDED = Outlook(eta_s=0.0)


@dataclass(frozen=True, slots=True)
class RouteLook:
    """A route at one moment: its quotas in force, the length of a call, and what holds its next call back.

    The next call may begin in `first_s` (None: unknown), and `next_slot_at` is that time where something holds it back.
    """

    quotas: tuple[Quota, ...]
    call_s: float | None
    first_s: float | None = 0.0
    bound: str | None = None
    next_slot_at: datetime | None = None
    equals: tuple[RouteLook, ...] = ()  # those of an `any` route that have a slot; it has no quota of its own


class Estimates:
    """Estimates the work of one installation; `settings` have its quotas."""

    def __init__(
        self, client: Redis, records: Records, limiter: Limiter, settings: Settings, routes: Routes
    ) -> None:
        self._client = client
        self._records = records
        self._keys = records.keys
        self._limiter = limiter
        self._configured = settings.quotas
        self._routes = routes
        self._positions = Positions(client, records.keys)
        self._slots = settings.worker.max_in_flight
        self._looks: dict[str, tuple[float, RouteLook]] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def of(self, view: View, members: Sequence[ItemView] = ()) -> Outlook:
        """The outlook of a record; `members` are the pictures of a job of several."""
        if view.ended:
            return ENDED
        return await self._tried(
            self._item(view) if isinstance(view, ItemView) else self._group(view, members)
        )

    async def of_new(self, job: Job) -> Outlook:
        """The outlook of a job of one picture that was queued a moment ago, without a look at its record."""
        return await self._tried(self._new(job))

    async def _tried(self, estimate: Awaitable[Outlook]) -> Outlook:
        try:
            return await estimate
        except (RedisError, OSError, ValueError) as error:
            reason = in_words(error) if isinstance(error, RedisError | OSError) else str(error)
            log.warning("work cannot be estimated", error=reason)
            return UNKNOWN

    async def of_calls(self, route: str, calls: int) -> Outlook:
        """The outlook of `calls` more calls of a route."""
        return await self._tried(self._calls(route, calls))

    async def look(self, route: str) -> RouteLook | None:
        """The facts about a route now; None for one that is not configured here."""
        if route not in self._routes:
            return None
        async with self._turns.setdefault(route, asyncio.Lock()):
            read_at, look = self._looks.get(route, (0.0, None))
            if look is None or time.monotonic() - read_at > LOOK_EVERY_S:
                look = await self._read(route)
                self._looks[route] = time.monotonic(), look
            return look

    async def _new(self, job: Job) -> Outlook:
        look, uid = await self.look(job.route), Uid(job.tenant, "", job.id)
        place = await self._positions.place(uid, job.route, job.priority, max_age_s=LOOK_EVERY_S, is_new=True)
        return _in_line(job.route, look, place, 1, self._slots)

    async def _calls(self, route: str, calls: int) -> Outlook:
        return _in_line(route, await self.look(route), None, calls, self._slots)

    async def _item(self, item: ItemView) -> Outlook:
        if item.needs_person:
            return Outlook(bound=HELD)
        look = await self.look(item.route)
        call_s = None if look is None else look.call_s
        if item.state == "running":
            return Outlook(eta_s=_rest_s(item, call_s))
        if item.due_at is not None:
            bound = NOT_BEFORE if item.state == "queued" and not item.error else item.state
            due_s = max(0.0, (item.due_at - datetime.now(UTC)).total_seconds())
            return Outlook(None, due_s + (call_s or 0.0), bound, item.due_at)
        if item.batch is not None and await self._batch_is_paused(item):
            return Outlook(bound=BATCH_PAUSED)
        place = await self._place(item)
        return _in_line(item.route, look, place, 1, self._slots)

    async def _group(self, group: GroupView, members: Sequence[ItemView]) -> Outlook:
        counts = group.counts
        left = counts.total - counts.ended - counts.held
        if left <= 0:
            return Outlook(bound=HELD if counts.held else PARTS if group.parts_left else None)
        ours = left - counts.running
        if ours and group.paused is not None:
            return Outlook(bound=BATCH_PAUSED)
        look = await self.look(group.route)
        if group.kind == "job" and ours:
            # A job of several pictures stands among its tenant's single jobs: its own turn is no batch's.
            first = next((item for item in members if item.state == "queued" and item.due_at is None), None)
            place = None if first is None else await self._place(first)
            return _in_line(group.route, look, place, left, self._slots)
        if look is None:
            return Outlook(bound=_unserved(group.route))
        pipe = self._client.pipeline(transaction=False)
        pipe.zcard(self._keys.waiting(group.route))
        pipe.zcard(self._keys.active)
        pipe.hget(self._keys.group(group.gid), "latest_us")
        waiting, active, latest_us = await pipe.execute()
        eta_s = _eta_s(look, left + ahead_of(waiting, ours, active), self._slots)
        starts_s = int(latest_us or 0) / 1e6 - time.time() + (look.call_s or 0.0)
        if ours and eta_s is not None and starts_s > eta_s:
            return Outlook(None, starts_s, NOT_BEFORE)
        return Outlook(None, eta_s, look.bound, look.next_slot_at)

    async def _place(self, item: ItemView) -> Place | None:
        return await self._positions.place(item.uid, item.route, item.lane, max_age_s=LOOK_EVERY_S)

    async def _batch_is_paused(self, item: ItemView) -> bool:
        group = None if item.group is None else await self._records.group(item.group)
        return group is not None and group.paused is not None

    async def _read(self, route: str) -> RouteLook:
        own = self._routes[route]
        if own.equals:
            return await self._read_equals(route)
        look = await self._read_own(route)
        if look.first_s is not None or pause_over(await read_pauses(self._client, self._keys), route):
            return look
        spares = [await self._read_own(spare) for spare in own.spares]
        return next((spare for spare in spares if spare.first_s is not None), look)

    async def _read_equals(self, route: str) -> RouteLook:
        pause = pause_over(await read_pauses(self._client, self._keys), route)
        looks = [await self._read_own(each.name) for each in self._routes.first(route)]
        first = min(looks, key=lambda look: inf if look.first_s is None else look.first_s)
        if pause is not None:
            return RouteLook((), first.call_s, pause.ends_s, pause.bound, _after(pause.ends_s), tuple(looks))
        ready = tuple(look for look in looks if look.first_s is not None)
        return RouteLook((), first.call_s, first.first_s, first.bound, first.next_slot_at, ready)

    async def _read_own(self, route: str) -> RouteLook:
        own = self._routes[route]
        now = await quotas_in_force(self._client, self._keys, self._configured)
        quotas = tuple(now[each.name].quota if each.name in now else each for each in own.quotas)
        call_s = await read_call_s(self._client, self._keys, route)
        pause = pause_over(await read_pauses(self._client, self._keys), route)
        if pause is not None:
            return RouteLook(quotas, call_s, pause.ends_s, pause.bound, _after(pause.ends_s))
        about: Any = await self._client.exists(self._keys.unreachable(route))
        if about:
            return RouteLook(quotas, call_s, None, f"provider:{own.provider.name} unreachable")
        return _held_back(quotas, call_s, await self._limiter.explain(quotas))


def _held_back(quotas: tuple[Quota, ...], call_s: float | None, why: Sequence[Explanation]) -> RouteLook:
    """A route whose quotas alone may hold its next call back: the one that does so for longest."""
    held = [one for one in why if one.bound is not None]
    if not held:
        return RouteLook(quotas, call_s)
    if endless := next((one for one in held if one.bound == PAUSED and one.next_slot_s is None), None):
        return RouteLook(quotas, call_s, None, _named(endless))
    last = max(held, key=lambda one: one.next_slot_s or 0.0)
    # A place in flight is free when a call ends, at a time that nobody knows; the calls before it count that.
    return RouteLook(quotas, call_s, last.next_slot_s or 0.0, _named(last), _after(last.next_slot_s))


def _named(one: Explanation) -> str:
    return str(Bound(one.state.quota, one.bound or ""))


def _in_line(route: str, look: RouteLook | None, place: Place | None, calls: int, slots: int) -> Outlook:
    """Work with `calls` calls, of which the first has this place."""
    position = None if place is None else place.ahead
    if look is None:
        return Outlook(position, None, _unserved(route))
    return Outlook(position, _eta_s(look, (position or 0) + calls, slots), look.bound, look.next_slot_at)


def _unserved(route: str) -> str:
    return f"route:{route} is not served here"


def _eta_s(look: RouteLook, calls: int, slots: int) -> float | None:
    equals = look.equals or (look,)
    split = shares(calls, [each.quotas for each in equals])
    ends = [
        least_s(each.quotas, share, each.call_s, slots) for each, share in zip(equals, split, strict=True)
    ]
    if look.first_s is None or None in ends:
        return None
    return max(each for each in ends if each is not None) + look.first_s


def _rest_s(item: ItemView, call_s: float | None) -> float | None:
    if call_s is None or item.started_at is None:
        return None
    return max(0.0, call_s - (datetime.now(UTC) - item.started_at).total_seconds())


def _after(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
