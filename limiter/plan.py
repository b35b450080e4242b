"""How a set of quotas is put to the scripts: the key list and one row of arguments a limit.

Quotas hardly ever change while calls come by the thousand, so a plan is built once for each combination of
quotas and costs and only read from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limiter.keys import LimiterKeys
from limiter.quota import Bucket, InFlight, Limit, Quota, QuotaError, Window, check_cost, guard_us

Arg = str | int


@dataclass(frozen=True, slots=True)
class Plan:
    """`keys` and `rows` as acquire.lua and snapshot.lua describe them (without the request's record)."""

    quotas: tuple[Quota, ...]
    names: tuple[str, ...]
    leased: tuple[str, ...]
    costs: Mapping[str, int]
    strings: int
    keys: tuple[str, ...]
    rows: tuple[Arg, ...]


def plan_for(keys: LimiterKeys, quotas: Sequence[Quota], costs: Mapping[str, int] | None) -> Plan:
    """The plan for calls of these `costs`; with None, every limit has a row (to look at, not to charge).

    Errors: QuotaError for a cost that can never fit and for a quota that is named twice.
    """
    names = tuple(quota.name for quota in quotas)
    if len(set(names)) != len(names):
        raise QuotaError(f"one call cannot use a quota twice: {', '.join(names)}; name each of them once")
    limits = [(quota.name, limit) for quota in quotas for limit in quota.limits]
    if costs is not None:
        for quota in quotas:
            check_cost(quota, costs)
        limits = [
            (name, limit) for name, limit in limits if isinstance(limit, InFlight) or costs.get(limit.unit)
        ]

    pairs = [key for name in names for key in (keys.cooldown(name), keys.pause(name))]
    buckets = [keys.bucket(name, limit.unit) for name, limit in limits if isinstance(limit, Bucket)]
    sets = [_set_key(keys, name, limit) for name, limit in limits if not isinstance(limit, Bucket)]
    all_keys = (*pairs, *buckets, *sets)
    index = {key: number for number, key in enumerate(all_keys, start=1)}

    rows: list[Arg] = []
    for name in names:
        # The pause comes first: where an operator said stop, nothing else is worth telling.
        rows += ["pause", index[keys.pause(name)], f"quota:{name}.paused", 0, 0, 0, 0]
        rows += ["cooldown", index[keys.cooldown(name)], f"quota:{name}.cooldown", 0, 0, 0, 0]
    for name, limit in limits:
        rows += _row(keys, index, name, limit, 0 if costs is None else costs.get(limit.unit, 0))
    return Plan(
        quotas=tuple(quotas),
        names=names,
        leased=tuple(name for name, limit in limits if isinstance(limit, InFlight)),
        costs=dict(costs or {}),
        strings=len(pairs) + len(buckets),
        keys=all_keys,
        rows=tuple(rows),
    )


def _set_key(keys: LimiterKeys, name: str, limit: Limit) -> str:
    return keys.leases(name) if isinstance(limit, InFlight) else keys.log(name, limit.unit)


def _row(keys: LimiterKeys, index: Mapping[str, int], name: str, limit: Limit, cost: int) -> list[Arg]:
    bound = f"quota:{name}.{limit.unit}"
    match limit:
        case Window(count, period_us, unit):
            span_us = period_us + guard_us(period_us)
            return ["window", index[keys.log(name, unit)], bound, cost, count, span_us, 0]
        case Bucket(count, period_us, burst, unit):
            return ["bucket", index[keys.bucket(name, unit)], bound, cost, count, period_us, burst]
        case InFlight(count):
            return ["in_flight", index[keys.leases(name)], bound, 1, count, 0, 0]
