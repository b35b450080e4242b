"""Describes a batch before it is sent: how many pictures it makes, and the least time that the quotas allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from limiter import Bound
from limiter.quota.quota import Quota
from limiter.quota.shares import shares


class LeastTime(NamedTuple):
    """The time of the strictest quota without the time that calls take, and that quota; None if no quota is known."""

    seconds: float | None
    bound: Bound | None


def pictures_by_route(items: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> Counter[str]:
    """How many pictures the items make on each route."""
    routes: Counter[str] = Counter()
    for item in items:
        routes[item.get("route", defaults.get("route", "default"))] += item.get("n", defaults.get("n", 1))
    return routes


def by_account(
    pictures: Mapping[str, int], quotas: Mapping[str, Iterable[Quota]], equals: Mapping[str, Sequence[str]]
) -> Counter[str]:
    """The pictures by the routes whose accounts make them; `equals` are the routes of each `any` route."""
    found: Counter[str] = Counter()
    for name, count in pictures.items():
        members = [each for each in equals.get(name, ()) if each in quotas] or [name]
        found.update(
            dict(zip(members, shares(count, [quotas.get(each, ()) for each in members]), strict=True))
        )
    return found


def least_time(pictures: Mapping[str, int], quotas: Mapping[str, Iterable[Quota]]) -> LeastTime:
    """The least time for all pictures of the routes. `quotas` are those that each route spends."""
    spent: Counter[str] = Counter()
    known: dict[str, Quota] = {}
    for name, count in pictures.items():
        for quota in quotas.get(name, ()):
            known[quota.name] = quota
            spent[quota.name] += count
    times = [
        LeastTime(limit.last_start_s(spent[name], 0), Bound(name, limit.unit))
        for name, quota in known.items()
        for limit in quota.limits
    ]
    return max(times, key=lambda each: each.seconds or 0.0, default=LeastTime(None, None))
