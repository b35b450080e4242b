"""Builds the arguments that pass quotas to the scripts: the keys, and one row for each limit.

Quotas rarely change and calls are many, so a plan is built once for each combination of quotas and costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limiter.keys import LimiterKeys
from limiter.quota.limits import Bucket, CalendarDay, FixedWindow, InFlight, Limit, QuotaError, Window
from limiter.quota.quota import Quota, check_cost, cost_of

Arg = str | int
_NO_RECORD = ""  # the request's record in the key list; filled in for each request


@dataclass(frozen=True)
class Plan:
    """`keys` and `rows` (the quotas, then the limits) as acquire.lua and snapshot.lua describe them.

    `leased` are the quotas with a lease and its weight. `days` are the calendar days by their place in `rows`; their
    rows get the midnights at each request.
    """

    quotas: tuple[Quota, ...]
    names: tuple[str, ...]
    leased: Mapping[str, int]
    costs: Mapping[str, int]
    keys: tuple[str, ...]
    rows: tuple[Arg, ...]
    days: Mapping[int, CalendarDay]

    def rows_at(self, wall_us: int) -> tuple[Arg, ...]:
        """The rows for a call at this time of the server's clock."""
        rows = list(self.rows)
        for place, limit in self.days.items():
            rows[place] = limit.midnights_us(wall_us)
        return tuple(rows)


def plan_for(keys: LimiterKeys, quotas: Sequence[Quota], costs: Mapping[str, int] | None) -> Plan:
    """The plan for calls of these `costs`. With None it only reads: every limit has a row, and none is charged.

    Errors: QuotaError for a cost that can never fit and for a quota that is named twice.
    """
    names = tuple(quota.name for quota in quotas)
    if len(set(names)) != len(names):
        raise QuotaError(f"one call cannot use a quota twice: {', '.join(names)}; name each of them once")
    if costs is not None:
        for quota in quotas:
            check_cost(quota, costs)
    limits = [
        (quota, limit, 1 if costs is None else cost_of(limit, costs))
        for quota in quotas
        for limit in quota.limits
        if costs is None or cost_of(limit, costs) > 0
    ]
    strings = (keys.clock, _NO_RECORD, keys.spread, *(key for name in names for key in keys.strings(name)))
    books = [
        key
        for quota, limit, _ in limits
        for key in (*_books(keys, quota, limit), *_former_books(keys, quota, limit))
    ]
    all_keys = (*strings, *dict.fromkeys(books))
    index = {key: number for number, key in enumerate(all_keys, start=1)}

    rows: list[Arg] = [len(names), *(head for quota in quotas for head in (quota.name, quota.fingerprint))]
    days: dict[int, CalendarDay] = {}
    for quota, limit, cost in limits:
        book, *waiting = _books(keys, quota, limit)
        span_us, extra = (0, index[waiting[0]]) if waiting else _span_and_extra(limit)
        if isinstance(limit, CalendarDay):
            days[len(rows) + 7] = limit
        former = " ".join(str(index[key]) for key in _former_books(keys, quota, limit))
        rows += [names.index(quota.name) + 1, limit.kind, index[book], limit.unit, cost, limit.count]
        rows += [span_us, extra, former]
    return Plan(
        quotas=tuple(quotas),
        names=names,
        leased={quota.name: cost for quota, limit, cost in limits if isinstance(limit, InFlight)},
        costs=dict(costs or {}),
        keys=all_keys,
        rows=tuple(rows),
        days=days,
    )


def _books(keys: LimiterKeys, quota: Quota, limit: Limit) -> tuple[str, ...]:
    """The keys of a limit's books; the first is the row's own."""
    if isinstance(limit, InFlight):
        return keys.of(quota.name, "leases"), keys.of(quota.name, "waiting")
    return (keys.of(quota.name, limit.kind, limit.unit),)


def _former_books(keys: LimiterKeys, quota: Quota, limit: Limit) -> list[str]:
    """The unit's books of kinds that it no longer has; a changed configuration may have left some."""
    if isinstance(limit, InFlight):
        return []
    kept = {book for other in quota.limits for book in _books(keys, quota, other)}
    if not isinstance(limit, Window):
        # A unit that has a window keeps both of its books: one is made from the other.
        windows = {keys.of(quota.name, kind, limit.unit) for kind in ("log", "slices")}
        kept |= windows if kept & windows else set()
    return [book for book in keys.books(quota.name, limit.unit) if book not in kept]


def _span_and_extra(limit: Limit) -> tuple[int, Arg]:
    match limit:
        case Window():
            return limit.span_us, limit.period_us
        case Bucket():
            return limit.period_us, f"{limit.burst} {limit.lag_us}"
        case FixedWindow():
            return limit.period_us, limit.guard_us
        case _:
            return 0, ""  # a day: the midnights are filled in for each call
