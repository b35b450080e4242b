"""Changes quotas for the whole fleet after a provider's refusals and headers, or an operator's pauses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from limiter.headers import HeaderReading, tightest
from limiter.permit import PPM, Penalty, Permit, Scale
from limiter.quota.limits import PERIODS_US, SECOND_US, Bucket, CalendarDay, FixedWindow, InFlight, Window
from limiter.quota.quota import Quota
from limiter.script import LuaScript, uninterrupted
from limiter.server import Server

# The kinds of refusal: the rate of calls, one more call in flight, or any call, since the provider is overloaded.
Refusal = Literal["rate", "concurrency", "overload"]

# The time until an exhausted account is tried again, if its refill time is unknown.
EXHAUSTED_S: Final = timedelta(hours=1).total_seconds()
# A provider that names a longer wait is tried after this one: a wrong clock or unit could stop an account for years.
LONGEST_S: Final = timedelta(days=1).total_seconds()
# How long headers without a reset time count; then a call may bring new ones.
NAMED_S: Final = 3600.0
UNNAMED_S: Final = 60.0
# The least time until a used-up allowance is tried again, also if it was refilled after the refused call was sent.
REFILLED_S: Final = 60.0

_HERE: Final = Path(__file__).parent
_PENALISE: Final = LuaScript.load(_HERE, "penalise")
_PAUSE: Final = LuaScript.load(_HERE, "pause")
_SYNC: Final = LuaScript.load(_HERE, "sync")
_SPREAD: Final = LuaScript.load(_HERE, "spread")
_WIDEN: Final = LuaScript.load(_HERE, "widen")


class Refusals(Server):
    """Reports about a provider account, and orders of its operator."""

    async def penalise(
        self,
        quota: Quota,
        *,
        reason: str,
        retry_after_s: float | None = None,
        kind: Refusal = "rate",
        permit: Permit | None = None,
    ) -> Penalty:
        """Report that the provider refused the call of `permit`: this quota grants no slot for a while.

        The pause is the longer of `retry_after_s` and our own. Ours is a second and doubles with each refusal that
        follows soon, up to a minute; the first one of a quota that learns may be shorter. A `retry_after_s` that is
        0, below 0 or NaN counts as None; one of more than a day counts as a day, and the reason names it. Pauses
        merge to the latest end and are never shortened. After a pause one call goes alone for a quarter of our own,
        and slots come evenly for one period. The bell recalls grants that were not sent, by `quota NAME UNTIL_US`:
        those with `granted_us` up to that time.

        A refusal also makes a cut, except for calls that were granted before the last cut. The kind `rate` cuts the
        rate of a quota that learns. `concurrency` cuts the calls in flight; one more is tried every half minute. It
        pauses only if no other call runs or the provider named a time. `overload` cuts nothing.

        `reason` is shown to operators.
        """
        reason, named_s = _within_a_day(reason, retry_after_s)
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
        pause_us = math.ceil((named_s or 0.0) * SECOND_US)
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

    async def widen(self, quota: Quota, permit: Permit) -> int:
        """Double the guard for an hour, if late and early arrivals explain why the call of `permit` was refused.

        Our books never exceed a rate, but a provider counts arrivals. Returns how many times its usual width the guard
        has now, 8 at most (a tenth of a window's period, and one unit's time of a bucket); 0 for another reason. A
        window of more than 2,000 units, by the clock or of a day keeps its guard.
        """
        windows = [limit for limit in quota.limits if isinstance(limit, Window) and limit.exact]
        if not windows and quota.limit(Bucket) is None:
            return 0
        logs = list(dict.fromkeys(self._keys.of(quota.name, "log", window.unit) for window in windows))
        keys = [self._keys.of(quota.name, "guard"), *logs]
        args: list[str | int] = [permit.grant_id, permit.slot_us]
        for window in windows:
            args += [
                keys.index(self._keys.of(quota.name, "log", window.unit)) + 1,
                window.count,
                window.period_us,
            ]
        return int(await uninterrupted(_WIDEN(self._client, keys, args)))

    async def exhausted(
        self,
        quota: Quota,
        *,
        reason: str,
        retry_after_s: float | None = None,
        permit: Permit | None = None,
    ) -> int:
        """Pause until the provider's used-up allowance is refilled; returns that time (µs of the server's clock).

        It is the quota's first midnight after `permit`'s call was sent (without a permit: after now), else
        `retry_after_s` from now (a minute to a day, as in `penalise`), else an hour from now. Never shortens a pause.
        The first call after it goes alone: its refusal pauses again, and after 10 s without one the others follow.
        """
        if not any(isinstance(limit, CalendarDay) for limit in quota.limits):
            reason, retry_after_s = _within_a_day(reason, retry_after_s)
        now_us = await self._time_us()
        sent_us = permit.slot_us if permit and 0 <= now_us - permit.slot_us < PERIODS_US["d"] else now_us
        until_us = _refilled_us(quota, sent_us, now_us, retry_after_s)
        await self._pause(quota.name, reason, until_us, unless_longer=True)
        return until_us

    async def observe(self, quota: Quota, permit: Permit, readings: Iterable[HeaderReading]) -> int:
        """Note the readings of the headers that answered `permit`'s call, see `headers.read_headers`.

        Headers only tighten: if the provider has less left than our books, the difference counts as use by others
        until the limit resets. Calls the server only then; returns how many limits it noted.
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
            await uninterrupted(_SYNC(self._client, keys, (*args, *shape, permit.grant_id)))
            noted += 1
        return noted

    async def report_spread(self, spread_us: int) -> int:
        """Report how unevenly this replica's calls arrive (`Lag.spread_us`); returns the largest of all replicas.

        The largest report of the last minute widens the guards of long windows, up to a hundredth of their period.
        Report every quarter of a minute.
        """
        return int(await uninterrupted(_SPREAD(self._client, [self._keys.spread], [spread_us])))

    async def pause(self, quota_name: str, reason: str, until_us: int | None = None) -> None:
        """An operator's pause, until `until_us` (µs of the server's clock) or, if None, until a resume."""
        await self._pause(quota_name, reason, until_us or 0, unless_longer=False)

    async def resume(self, quota_name: str) -> bool:
        """End a pause that `pause` or `exhausted` set, but no provider's cooldown; True if there was one."""
        return await uninterrupted(self._resume(quota_name))

    async def _pause(self, name: str, reason: str, until_us: int, *, unless_longer: bool) -> None:
        args = [self._now_us(), until_us, reason, self._keys.bell, name, int(unless_longer)]
        keys = [self._keys.of(name, "pause"), self._keys.of(name, "cooldown")]
        await uninterrupted(_PAUSE(self._client, keys, args))

    async def _resume(self, quota_name: str) -> bool:
        if not await self._client.delete(self._keys.of(quota_name, "pause")):
            return False
        await self._client.publish(self._keys.bell, f"quota {quota_name}")
        return True


def _period_us(quota: Quota) -> int:
    """The time in which a quota without a log shows whether a rate holds: its longest period, a minute at most."""
    periods = (limit.period_us for limit in quota.limits if isinstance(limit, Window | Bucket | FixedWindow))
    return min(max(periods, default=PERIODS_US["min"]), PERIODS_US["min"])


def _refilled_us(quota: Quota, sent_us: int, now_us: int, retry_after_s: float | None) -> int:
    """The earliest time at which a used-up allowance is refilled (µs of the server's clock)."""
    days = [limit for limit in quota.limits if isinstance(limit, CalendarDay)]
    if days:
        midnights = [int(text) for day in days for text in day.midnights_us(sent_us).split()]
        refilled_us = min(midnight for midnight in midnights if midnight > sent_us)
        return max(refilled_us, now_us + math.ceil(REFILLED_S * SECOND_US))
    wait_s = EXHAUSTED_S if retry_after_s is None else max(REFILLED_S, retry_after_s)
    return now_us + math.ceil(wait_s * SECOND_US)


def _within_a_day(reason: str, named_s: float | None) -> tuple[str, float | None]:
    """The wait (s) that a provider named, a day at most, and the reason with a longer one; None for no wait."""
    if named_s is None or not named_s > 0:
        return reason, None
    if named_s <= LONGEST_S:
        return reason, named_s
    named = "an endless wait" if named_s == math.inf else f"a wait of {named_s / LONGEST_S:,.0f} days"
    return f"{reason} (the provider named {named}; a call tries again after one day)", LONGEST_S


def _about(limit: Window | CalendarDay, quota: Quota, readings: list[HeaderReading]) -> list[HeaderReading]:
    """The readings that can describe this limit.

    A reading without a period describes the limit with its count, or if there is none, the shortest limit.
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
