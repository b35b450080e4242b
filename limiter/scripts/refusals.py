"""What a provider's refusals and headers change for the whole fleet; the steps behind `Limiter.penalise` and others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from limiter.learning.adaptive import PPM
from limiter.learning.headers import HeaderReading, tightest
from limiter.lua import LuaScript
from limiter.permit import Penalty, Permit, Scale
from limiter.quota.limits import PERIODS_US, SECOND_US, Bucket, CalendarDay, FixedWindow, InFlight, Window
from limiter.quota.quota import Quota
from limiter.server import Server
from limiter.steps import uninterrupted

# What was refused: the rate of calls, one more in flight, or anybody's call, since the provider has no room.
Refusal = Literal["rate", "concurrency", "overload"]

# Where nobody says when an exhausted account is filled again, it is asked this long after.
EXHAUSTED_S: Final = timedelta(hours=1).total_seconds()
# Headers that do not say when their limit resets are believed for so long, then a call may bring the next ones.
NAMED_S: Final = 3600.0
UNNAMED_S: Final = 60.0
# An allowance that has been filled again since the refused call was sent is asked after this.
REFILLED_S: Final = 60.0

_HERE: Final = Path(__file__).parent
_PENALISE: Final = LuaScript.load(_HERE, "penalise")
_PAUSE: Final = LuaScript.load(_HERE, "pause")
_SYNC: Final = LuaScript.load(_HERE, "sync")


async def penalise(
    server: Server,
    quota: Quota,
    permit: Permit | None,
    *,
    kind: Refusal,
    retry_after_s: float | None,
    reason: str,
) -> Penalty:
    """See Limiter.penalise."""
    if retry_after_s is not None and not (math.isfinite(retry_after_s) and retry_after_s >= 0):
        raise ValueError(f"retry_after_s must be a number of seconds from 0, not {retry_after_s}")
    name, keys = quota.name, server.keys
    windows = [limit for limit in quota.limits if isinstance(limit, Window) and limit.exact]
    places = quota.limit(InFlight)
    head = [keys.clock, *keys.strings(name), keys.leases(name), keys.refused(name)]
    logs = list(dict.fromkeys(keys.log(name, window.unit) for window in windows)) if quota.adaptive else []
    rows: list[str | int] = []
    if quota.adaptive:
        for window in windows:
            place = len(head) + logs.index(keys.log(name, window.unit)) + 1
            rows += [place, window.count, window.span_us, window.period_us]
    pause_us = -1 if retry_after_s is None else math.ceil(retry_after_s * SECOND_US)
    granted = (permit.granted_us, permit.slot_us, permit.grant_id) if permit else (0, 0, "")
    weight = dict(permit.leases).get(name, 0) if permit else 0
    reply = await uninterrupted(
        _PENALISE(
            server.client,
            [*head, *logs],
            [
                *(server.now_us(), kind, pause_us, *granted, weight, reason, keys.bell, name),
                *(quota.fingerprint, places.count if places else 0, _period_us(quota), *rows),
            ],
        )
    )
    rest_us, cut, generation, old, new, most = map(int, reply)
    scale = Scale(name, old / PPM, new / PPM) if new != old else None
    return Penalty(rest_us / SECOND_US, cut == 1, generation, scale, most)


def _period_us(quota: Quota) -> int:
    """The period in which a quota without a log shows whether a rate holds: its longest one, a minute at most."""
    periods = (limit.period_us for limit in quota.limits if isinstance(limit, Window | Bucket | FixedWindow))
    return min(max(periods, default=PERIODS_US["min"]), PERIODS_US["min"])


async def pause(server: Server, name: str, reason: str, until_us: int | None, *, unless_longer: bool) -> None:
    """A stop until `until_us` (µs of the server's clock) or until it is resumed. See Limiter.pause."""
    keys = [server.keys.pause(name)]
    args = [server.now_us(), until_us or 0, reason, server.keys.bell, name, int(unless_longer)]
    await uninterrupted(_PAUSE(server.client, keys, args))


def refilled_us(quota: Quota, sent_us: int, now_us: int, retry_after_s: float | None) -> int:
    """When an allowance that is used up is filled again, at the earliest (µs of the server's clock).

    The quota's first midnight after the refused call was sent, if it has a calendar day; else what the provider
    told, else EXHAUSTED_S from now.
    """
    days = [limit for limit in quota.limits if isinstance(limit, CalendarDay)]
    if days:
        midnights = [int(text) for day in days for text in day.midnights_us(sent_us).split()]
        refilled_us = min(midnight for midnight in midnights if midnight > sent_us)
        return max(refilled_us, now_us + math.ceil(REFILLED_S * SECOND_US))
    return now_us + math.ceil((EXHAUSTED_S if retry_after_s is None else retry_after_s) * SECOND_US)


async def sync(server: Server, quota: Quota, permit: Permit, readings: Iterable[HeaderReading]) -> int:
    """See Limiter.observe; returns how many limits were told of."""
    known = list(readings)
    told = 0
    for limit, kind, book in _with_books(server, quota):
        period_us = PERIODS_US["d"] if isinstance(limit, CalendarDay) else limit.period_us
        reading = tightest(_of(limit, quota, known), limit.unit, period_us / SECOND_US)
        if reading is None or reading.remaining is None or permit.costs.get(limit.unit, 0) == 0:
            continue
        believed = permit.left.get((quota.name, f"{limit.unit}:{period_us}"))
        if believed is not None and reading.remaining >= believed:
            continue  # the provider has at least as much left as this grant left: nothing to learn
        unknown_s = NAMED_S if reading.window_s else UNNAMED_S
        reset_us = math.ceil((unknown_s if reading.reset_s is None else reading.reset_s) * SECOND_US)
        span_us = limit.span_us if isinstance(limit, Window) else 0
        midnights = limit.midnights_us(server.wall_us()) if isinstance(limit, CalendarDay) else ""
        keys = (server.keys.clock, *server.keys.strings(quota.name), book, server.keys.spread)
        args = (server.now_us(), quota.fingerprint, permit.slot_us, reading.remaining, reset_us, kind)
        shape = (limit.unit, limit.count, span_us, period_us, midnights)
        await uninterrupted(_SYNC(server.client, keys, (*args, *shape)))
        told += 1
    return told


def _of(limit: Window | CalendarDay, quota: Quota, readings: list[HeaderReading]) -> list[HeaderReading]:
    """The readings that can be about this limit.

    One that does not name its period is about the limit with its count, and where there is none, about the shortest.
    """
    same = [each for each in quota.limits if isinstance(each, Window) and each.unit == limit.unit]
    shortest = min(same, key=lambda each: each.period_us, default=None)
    counts = {
        each.count for each in quota.limits if each.unit == limit.unit and not isinstance(each, InFlight)
    }
    return [
        each
        for each in readings
        if each.window_s is not None
        or (each.limit == limit.count if each.limit in counts else shortest is None or limit is shortest)
    ]


def _with_books(server: Server, quota: Quota) -> Iterator[tuple[Window | CalendarDay, str, str]]:
    """The limits that headers can speak of, each with its kind and the key of its book."""
    for limit in quota.limits:
        if isinstance(limit, CalendarDay):
            yield limit, "day", server.keys.day(quota.name, limit.unit)
        elif isinstance(limit, Window):
            kind, key = ("window", server.keys.log) if limit.exact else ("slices", server.keys.slices)
            yield limit, kind, key(quota.name, limit.unit)
