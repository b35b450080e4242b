"""How a set of quotas is put to the scripts: the key list and one row of arguments a limit.

Quotas hardly ever change while calls come by the thousand, so a plan is built once for each combination of
quotas and costs and only read from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from limiter.keys import LimiterKeys
from limiter.quota.limits import Bucket, CalendarDay, FixedWindow, InFlight, Limit, QuotaError, Window
from limiter.quota.quota import Quota, check_cost, cost_of

Arg = str | int
_FIELDS = 9

# Kinds in which a call can be late, and for how many spans its use may count.
_LATE = {"window": 1, "tokens": 1, "slices": 2, "fixed": 2}
_NO_RECORD = ""  # its place in the key list; filled in for each request


class LateBook(NamedTuple):
    """A book in which a call that is sent late moves; a use counts in it for `keep_us`."""

    key: str
    kind: str
    cost: int
    keep_us: int


@dataclass(frozen=True)
class Plan:
    """`keys`, `heads` (the quotas) and `rows` (the limits) as acquire.lua and snapshot.lua describe them.

    `leased` are the quotas with a lease and its weight. `days` are the limits whose row wants the midnights of
    the moment, by its place in `rows`.
    """

    quotas: tuple[Quota, ...]
    names: tuple[str, ...]
    leased: Mapping[str, int]
    costs: Mapping[str, int]
    heads: tuple[Arg, ...]
    keys: tuple[str, ...]
    rows: tuple[Arg, ...]
    days: Mapping[int, CalendarDay]

    def rows_at(self, wall_us: int) -> tuple[Arg, ...]:
        """The rows for a call at this time of the server's clock."""
        if not self.days:
            return self.rows
        rows = list(self.rows)
        for place, limit in self.days.items():
            rows[place] = limit.midnights_us(wall_us)
        return tuple(rows)

    @cached_property
    def late_books(self) -> tuple[LateBook, ...]:
        """Each book once, with the longest span of the limits that share it."""
        books: dict[str, LateBook] = {}
        for at in range(0, len(self.rows), _FIELDS):
            _, kind, index, _, cost, count, span_us, extra, _ = self.rows[at : at + _FIELDS]
            if kind not in _LATE:
                continue
            keep_us = int(span_us) * _LATE[str(kind)]
            if kind == "tokens":
                keep_us = int(str(extra).split()[0]) * int(span_us) // int(count) + int(span_us)
            key = self.keys[int(index) - 1]
            known = books.get(key)
            books[key] = LateBook(key, str(kind), int(cost), max(keep_us, known.keep_us if known else 0))
        return tuple(books.values())


def plan_for(keys: LimiterKeys, quotas: Sequence[Quota], costs: Mapping[str, int] | None) -> Plan:
    """The plan for calls of these `costs`; with None, every limit has a row (to look at, not to charge).

    Errors: QuotaError for a cost that can never fit and for a quota that is named twice.
    """
    names = tuple(quota.name for quota in quotas)
    if len(set(names)) != len(names):
        raise QuotaError(f"one call cannot use a quota twice: {', '.join(names)}; name each of them once")
    if costs is not None:
        for quota in quotas:
            check_cost(quota, costs)
    limits = [
        (quota, limit)
        for quota in quotas
        for limit in quota.limits
        if costs is None or cost_of(limit, costs) > 0
    ]

    strings = [
        keys.clock,
        _NO_RECORD,
        keys.spread,
        *(string for name in names for string in keys.strings(name)),
    ]
    books = [
        key
        for quota, limit in limits
        for key in (*_books(keys, quota.name, limit), *_gone(keys, quota, limit))
    ]
    all_keys = (*strings, *dict.fromkeys(books))
    index = {key: number for number, key in enumerate(all_keys, start=1)}

    rows: list[Arg] = []
    days: dict[int, CalendarDay] = {}
    for quota, limit in limits:
        key, *others = (index[book] for book in _books(keys, quota.name, limit))
        cost = 0 if costs is None else cost_of(limit, costs)
        kind, span_us, extra = _shape(limit, others)
        rows += [names.index(quota.name) + 1, kind, key, limit.unit, cost, limit.count, span_us, extra]
        rows.append(" ".join(str(index[gone]) for gone in _gone(keys, quota, limit)))
        if isinstance(limit, CalendarDay):
            days[len(rows) - 2] = limit
    return Plan(
        quotas=tuple(quotas),
        names=names,
        leased={
            quota.name: cost_of(limit, costs or {}) for quota, limit in limits if isinstance(limit, InFlight)
        },
        costs=dict(costs or {}),
        heads=(len(names), *(head for quota in quotas for head in (quota.name, quota.fingerprint))),
        keys=all_keys,
        rows=tuple(rows),
        days=days,
    )


def _books(keys: LimiterKeys, name: str, limit: Limit) -> tuple[str, ...]:
    """The keys in which a limit keeps what was used; the first is the row's own."""
    match limit:
        case Window():
            return ((keys.log if limit.exact else keys.slices)(name, limit.unit),)
        case Bucket():
            return (keys.tokens(name, limit.unit),)
        case FixedWindow():
            return (keys.fixed(name, limit.unit),)
        case CalendarDay():
            return (keys.day(name, limit.unit),)
        case InFlight():
            return keys.leases(name), keys.waiting(name)


def _gone(keys: LimiterKeys, quota: Quota, limit: Limit) -> list[str]:
    """The books of kinds that the limit's unit does not have now; a changed configuration may have left some."""
    if isinstance(limit, InFlight):
        return []
    kept = {book for other in quota.limits for book in _books(keys, quota.name, other)}
    return [book for book in keys.books(quota.name, limit.unit) if book not in kept]


def _shape(limit: Limit, others: Sequence[int]) -> tuple[str, int, Arg]:
    """Kind, span and extra of a limit's row."""
    match limit:
        case Window():
            return "window" if limit.exact else "slices", limit.span_us, limit.period_us
        case Bucket():
            return "tokens", limit.period_us, f"{limit.burst} {limit.lag_us}"
        case FixedWindow():
            return "fixed", limit.period_us, limit.guard_us
        case CalendarDay():
            return "day", 0, ""
        case InFlight():
            return "in_flight", 0, others[0]
