"""Quotas as people and programs see them, and their pauses: shared by the command line and HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from redis.asyncio import Redis

from daemon.accounts.quota_store import InForce, quotas_in_force, ring
from daemon.queue.pauses import unsigned
from limiter import Limiter, QuotaState
from limiter.explain import Explanation, spelled
from pixmill.records.keys import Keys


@dataclass(frozen=True, slots=True)
class Look:
    """A quota at one moment: why its next call waits, its limits and their source, and the state of its polls."""

    why: Explanation
    now: InForce
    polls: QuotaState

    def as_dict(self) -> dict[str, Any]:
        """For JSON answers. `set_at` is null where the configuration counts."""
        one, state = self.why, self.why.state
        reason, by = (None, None) if state.paused_reason is None else unsigned(state.paused_reason)
        return {
            "quota": state.quota,
            "limits": list(one.limits),
            "configured": [spelled(limit) for limit in self.now.configured.limits],
            "set_at": self.now.set_at,
            "problem": self.now.problem,
            "units": [
                {"unit": unit.unit, "capacity": unit.capacity, "available": unit.available}
                for unit in state.units
            ],
            "in_flight": state.in_flight,
            "rate_scale": state.scale,
            "bound": one.bound,
            "next_slot_seconds": None if one.next_slot_s is None else round(one.next_slot_s, 3),
            "cooldown_seconds": round(state.cooldown_s, 3),
            "cooldown_reason": state.cooldown_reason,
            "polls_cooldown_seconds": round(self.polls.cooldown_s, 3),
            "polls_cooldown_reason": self.polls.cooldown_reason,
            "paused": state.paused_reason is not None,
            "paused_reason": reason,
            "paused_by": by,
            "pause_ends_seconds": None if one.pause_ends_s is None else round(one.pause_ends_s, 3),
            "sentence": one.sentence,
        }


class Quotas:
    """The configured quotas of one installation, in force and paused. Looking charges nothing."""

    def __init__(self, client: Redis, keys: Keys, limiter: Limiter) -> None:
        self._client = client
        self._keys = keys
        self._limiter = limiter

    async def look(self, configured: Mapping[str, Mapping[str, object]]) -> list[Look]:
        """Each configured quota now. Raises QuotaError for an error in a configured one."""
        now = list((await quotas_in_force(self._client, self._keys, configured)).values())
        why = await self._limiter.explain([one.quota for one in now])
        polls = await self._limiter.snapshot([one.quota.polls for one in now])
        return list(map(Look, why, now, polls))

    async def pause(self, name: str, reason: str, for_s: float | None) -> datetime | None:
        """Stop all calls under a quota, on every replica; returns when that ends, None for a pause without an end."""
        until_us = None
        if for_s is not None:
            seconds, micros = await self._client.time()
            until_us = int(seconds) * 1_000_000 + int(micros) + round(for_s * 1e6)
        await self._limiter.pause(name, reason, until_us)
        await ring(self._client, self._keys, name)
        data = orjson.dumps({"quota": name, "kind": "operator", "message": reason})
        fields: dict[Any, Any] = {"type": "quota.paused", "data": data}
        await self._client.xadd(self._keys.events, fields, maxlen=100_000, approximate=True)
        return None if until_us is None else datetime.fromtimestamp(until_us / 1e6, UTC)

    async def resume(self, name: str) -> bool:
        """End a pause; False if there was none. A cooldown that the provider set stays."""
        resumed = await self._limiter.resume(name)
        await ring(self._client, self._keys, name)
        return resumed
