"""What a provider's refusals and headers, and an operator's pauses, change for the whole fleet."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from limiter.learning.headers import HeaderReading, tightest
from limiter.permit import PPM, Penalty, Permit, Scale
from limiter.quota.limits import PERIODS_US, SECOND_US, Bucket, CalendarDay, FixedWindow, InFlight, Window
from limiter.quota.quota import Quota
from limiter.script import LuaScript, uninterrupted
from limiter.server import Server

# What was refused: the rate of calls, one more in flight, or any call, since the provider has no room.
Refusal = Literal["rate", "concurrency", "overload"]

# An exhausted account is tried again after this if nothing says when it is filled again.
EXHAUSTED_S: Final = timedelta(hours=1).total_seconds()
# Headers that do not say when their limit resets are believed for so long; then a call may bring the next ones.
NAMED_S: Final = 3600.0
UNNAMED_S: Final = 60.0
# An allowance that has been filled again since the refused call was sent is tried again after this.
REFILLED_S: Final = 60.0

_HERE: Final = Path(__file__).parent
_PENALISE: Final = LuaScript.load(_HERE, "penalise")
_PAUSE: Final = LuaScript.load(_HERE, "pause")
_SYNC: Final = LuaScript.load(_HERE, "sync")
_SPREAD: Final = LuaScript.load(_HERE, "spread")


class Refusals(Server):
    """What is reported about a provider account, or ordered by its operator."""

    async def penalise(
        self,
        quota: Quota,
        *,
        reason: str,
        retry_after_s: float | None = None,
        kind: Refusal = "rate",
        permit: Permit | None = None,
    ) -> Penalty:
        """The provider refused the call of `permit`: no replica gets a slot under this quota for `retry_after_s`.

        Without `retry_after_s` the pause is a second, twice as much for each refusal that follows soon, a minute
        at most. Pauses merge to the latest end and are never shortened; after one, slots come evenly for a period.
        Grants that were not sent do not hold any more: the bell says so (`quota NAME UNTIL_US`), for those with
        `granted_us` up to then. Calls that had been granted before the last cut cut no more. What is cut: of a
        quota that learns, its rate; by kind `concurrency`, how many calls may be in flight (one more is tried
        after half a minute), which pauses nothing while others run, unless the provider said for how long; by
        `overload`, where the provider has no room for anybody, nothing.
        `reason` is shown to operators.
        """
        if retry_after_s is not None and not (math.isfinite(retry_after_s) and retry_after_s >= 0):
            raise ValueError(f"retry_after_s must be a number of seconds from 0, not {retry_after_s}")
        name, keys = quota.name, self._keys
        windows = [limit for limit in quota.limits if isinstance(limit, Window) and limit.exact]
        if not quota.adaptive:
            windows = []
        places = quota.limit(InFlight)
        head = [keys.clock, *keys.strings(name), keys.of(name, "leases"), keys.of(name, "refused")]
        logs = list(dict.fromkeys(keys.of(name, "log", window.unit) for window in windows))
        rows: list[str | int] = []
        for window in windows:
            place = len(head) + logs.index(keys.of(name, "log", window.unit)) + 1
            rows += [place, window.count, window.span_us, window.period_us]
        pause_us = -1 if retry_after_s is None else math.ceil(retry_after_s * SECOND_US)
        granted = (permit.granted_us, permit.slot_us, permit.grant_id) if permit else (0, 0, "")
        weight = dict(permit.leases).get(name, 0) if permit else 0
        args = [
            *(self._now_us(), kind, pause_us, *granted, weight, reason, keys.bell, name),
            *(quota.fingerprint, places.count if places else 0, _period_us(quota), *rows),
        ]
        reply = await uninterrupted(_PENALISE(self._client, [*head, *logs], args))
        rest_us, cut, generation, old, new, most = map(int, reply)
        scale = Scale(name, old / PPM, new / PPM) if new != old else None
        return Penalty(rest_us / SECOND_US, cut == 1, generation, scale, most)

    async def exhausted(
        self,
        quota: Quota,
        *,
        reason: str,
        retry_after_s: float | None = None,
        permit: Permit | None = None,
    ) -> int:
        """The provider's allowance is used up: pause until it is filled again; returns when (µs, server's clock).

        That is the quota's first midnight after `permit`'s call was sent (without it: from now on), else in
        `retry_after_s`, else in an hour. Never shortens a pause.
        """
        now_us = await self._time_us()
        sent_us = permit.slot_us if permit and 0 <= now_us - permit.slot_us < PERIODS_US["d"] else now_us
        until_us = _refilled_us(quota, sent_us, now_us, retry_after_s)
        await self._pause(quota.name, reason, until_us, unless_longer=True)
        return until_us

    async def observe(self, quota: Quota, permit: Permit, readings: Iterable[HeaderReading]) -> int:
        """Note what the headers of the answer to `permit`'s call said of its limits, see `headers.read_headers`.

        Headers only tighten: where the provider has less left than our books promise, the difference counts as
        used by others until the limit resets. Calls the server only then; returns how many limits it noted.
        """
        known = list(readings)
        noted = 0
        for limit in quota.limits:
            if not isinstance(limit, Window | CalendarDay) or not permit.costs.get(limit.unit):
                continue
            period_us = limit.period_us
            reading = tightest(_about(limit, quota, known), limit.unit, period_us / SECOND_US)
            if reading is None or reading.remaining is None:
                continue
            believed = permit.left.get((quota.name, f"{limit.unit}:{period_us}"))
            if believed is not None and reading.remaining >= believed:
                continue  # the provider has at least as much left as this grant left: nothing to learn
            unknown_s = NAMED_S if reading.window_s else UNNAMED_S
            reset_us = math.ceil((unknown_s if reading.reset_s is None else reading.reset_s) * SECOND_US)
            span_us = limit.span_us if isinstance(limit, Window) else 0
            midnights = limit.midnights_us(self._wall_us()) if isinstance(limit, CalendarDay) else ""
            book = self._keys.of(quota.name, limit.kind, limit.unit)
            keys = (self._keys.clock, *self._keys.strings(quota.name), book, self._keys.spread)
            args = (self._now_us(), quota.fingerprint, permit.slot_us, reading.remaining, reset_us)
            shape = (limit.kind, limit.unit, limit.count, span_us, period_us, midnights)
            await uninterrupted(_SYNC(self._client, keys, (*args, *shape)))
            noted += 1
        return noted

    async def report_spread(self, spread_us: int) -> int:
        """Report how unevenly this replica's calls arrive (`Lag.spread_us`); returns the figure that counts.

        The largest of all replicas, of the last minute, widens the guards of long windows, up to a hundredth of
        their period. Report every quarter of a minute.
        """
        return int(await uninterrupted(_SPREAD(self._client, [self._keys.spread], [spread_us])))

    async def pause(self, quota_name: str, reason: str, until_us: int | None = None) -> None:
        """An operator's stop, until `until_us` (µs of the server's clock) or, if None, until resumed."""
        await self._pause(quota_name, reason, until_us or 0, unless_longer=False)

    async def resume(self, quota_name: str) -> bool:
        """End a pause of `pause` or `exhausted`, not a provider's cooldown; True if there was one."""
        return await uninterrupted(self._resume(quota_name))

    async def _pause(self, name: str, reason: str, until_us: int, *, unless_longer: bool) -> None:
        args = [self._now_us(), until_us, reason, self._keys.bell, name, int(unless_longer)]
        await uninterrupted(_PAUSE(self._client, [self._keys.of(name, "pause")], args))

    async def _resume(self, quota_name: str) -> bool:
        if not await self._client.delete(self._keys.of(quota_name, "pause")):
            return False
        await self._client.publish(self._keys.bell, f"quota {quota_name}")
        return True


def _period_us(quota: Quota) -> int:
    """The period in which a quota without a log shows whether a rate holds: its longest one, a minute at most."""
    periods = (limit.period_us for limit in quota.limits if isinstance(limit, Window | Bucket | FixedWindow))
    return min(max(periods, default=PERIODS_US["min"]), PERIODS_US["min"])


def _refilled_us(quota: Quota, sent_us: int, now_us: int, retry_after_s: float | None) -> int:
    """When an allowance that is used up is filled again, at the earliest (µs of the server's clock)."""
    days = [limit for limit in quota.limits if isinstance(limit, CalendarDay)]
    if days:
        midnights = [int(text) for day in days for text in day.midnights_us(sent_us).split()]
        refilled_us = min(midnight for midnight in midnights if midnight > sent_us)
        return max(refilled_us, now_us + math.ceil(REFILLED_S * SECOND_US))
    return now_us + math.ceil((EXHAUSTED_S if retry_after_s is None else retry_after_s) * SECOND_US)


def _about(limit: Window | CalendarDay, quota: Quota, readings: list[HeaderReading]) -> list[HeaderReading]:
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
