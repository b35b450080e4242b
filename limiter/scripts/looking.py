"""Looking at quotas without changing them; the steps behind `Limiter.snapshot` and `Limiter.explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from limiter.explain import Explanation, explained
from limiter.learning.adaptive import PPM
from limiter.lua import LuaScript
from limiter.permit import Later, QuotaState, UnitState
from limiter.plan import plan_for
from limiter.quota.limits import IN_FLIGHT, InFlight
from limiter.quota.quota import Quota
from limiter.server import Server, text_of

TICK_US: Final = 1

_SNAPSHOT: Final = LuaScript.load(Path(__file__).parent, "snapshot")


async def snapshot(server: Server, quotas: Sequence[Quota]) -> list[QuotaState]:
    """See Limiter.snapshot."""
    if not quotas:
        return []
    plan = plan_for(server.keys, quotas, None)
    keys = (plan.keys[0], plan.keys[0], *plan.keys[2:])
    args = (server.now_us(), *plan.heads, *plan.rows_at(server.wall_us()))
    replies = await _SNAPSHOT(server.client, keys, args)
    heads, rows = replies[: len(quotas)], iter(replies[len(quotas) :])
    return [_state(quota, head, rows) for quota, head in zip(quotas, heads, strict=True)]


def rates_of(quota: Quota) -> Quota:
    """The quota without its places in flight."""
    limits = tuple(limit for limit in quota.limits if not isinstance(limit, InFlight))
    return Quota(quota.name, limits, quota.adaptive)


def explanation(quota: Quota, state: QuotaState, later: Later | None) -> Explanation:
    """What is known together with the wait that the rates alone ask for (None: none)."""
    rate_s = (later.retry_us - TICK_US) / 1e6 if later else 0.0
    bound = later.bound.rpartition(".")[2] if later else None
    return explained(quota, state, rate_bound=bound, rate_s=rate_s, pause_ends_s=state.pause_s)


def _state(quota: Quota, head: Sequence[bytes | int], rows: Iterator[Sequence[bytes]]) -> QuotaState:
    pause_reason, paused, rest_us, generation, reason, level, pause_us = (
        text_of(each) if isinstance(each, bytes | str) else each for each in head
    )
    units: dict[str, UnitState] = {}
    in_flight = 0
    for limit in quota.limits:
        figure, *places = map(int, next(rows))
        if limit.unit == IN_FLIGHT:
            in_flight, figure = figure, max(0, places[0] - figure)
        known = units.get(limit.unit)
        if known is None or figure < known.available:
            units[limit.unit] = UnitState(limit.unit, limit.most, figure)
    return QuotaState(
        quota=quota.name,
        units=tuple(units.values()),
        in_flight=in_flight,
        cooldown_s=int(rest_us) / 1e6,
        cooldown_reason=str(reason) if int(rest_us) else None,
        cooldown_generation=int(generation),
        paused_reason=str(pause_reason) if paused else None,
        pause_s=int(pause_us) / 1e6 if int(pause_us) else None,
        scale=int(level) / PPM,
    )
