"""Reads the state of quotas without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from limiter.explain import Explanation, explained
from limiter.permit import PPM, Later, QuotaState, UnitState
from limiter.plan import plan_for
from limiter.quota.limits import IN_FLIGHT, InFlight
from limiter.quota.quota import Quota
from limiter.script import LuaScript
from limiter.scripts.grants import ONE_IMAGE, Grants, Request
from limiter.server import text_of

_TICK_US: Final = 1
_SNAPSHOT: Final = LuaScript.load(Path(__file__).parent, "snapshot")


class States(Grants):
    """Calls that read the present state of quotas."""

    async def snapshot(self, quotas: Sequence[Quota]) -> list[QuotaState]:
        """The state of each quota at one instant, in the order given; reads only, one call."""
        if not quotas:
            return []
        plan = plan_for(self._keys, quotas, None)
        keys = (plan.keys[0], plan.keys[0], *plan.keys[2:])
        replies = await _SNAPSHOT(self._client, keys, (self._now_us(), *self._rows(plan)))
        heads, rows = replies[: len(quotas)], iter(replies[len(quotas) :])
        return [_state(quota, head, rows) for quota, head in zip(quotas, heads, strict=True)]

    async def explain(self, quotas: Sequence[Quota]) -> list[Explanation]:
        """Explain why and until when each quota holds the next picture back, in the order given; charges nothing.

        It makes several calls, so only the figures within one quota's state are of one instant.
        """
        states = await self.snapshot(quotas)
        return [await self._explained(quota, state) for quota, state in zip(quotas, states, strict=True)]

    async def _explained(self, quota: Quota, state: QuotaState) -> Explanation:
        # Leave out places in flight: a denied request for one would be noted as waiting.
        rates = tuple(limit for limit in quota.limits if not isinstance(limit, InFlight))
        plan = self._plan([Quota(quota.name, rates, quota.adaptive)], ONE_IMAGE)
        # A wait below 0 is never granted, and the reply says when the slot would be.
        unused = next(self._grant_ids)
        later = await self._request(Request(plan, "explain", unused, unused, -_TICK_US / 1e6))
        if not isinstance(later, Later):
            return explained(quota, state)
        rate_s = (later.retry_us - _TICK_US) / 1e6
        return explained(quota, state, later.bound.cause, rate_s)


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
