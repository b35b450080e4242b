"""Quotas shared by a whole fleet: permits for provider calls, decided in Redis, one atomic call each.

If Redis cannot answer, the error reaches the caller and nothing may be sent: there is never a local fallback.
The scripts are in limiter/scripts; this file is the only one that calls them.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Final

import redis.asyncio

from limiter.keys import LimiterKeys
from limiter.lua import LuaScript
from limiter.permit import Grant, Later, Permit, QuotaState, UnitState
from limiter.plan import Plan, plan_for
from limiter.quota import Bucket, Quota, QuotaError

__all__ = ["ONE_IMAGE", "Grant", "Later", "Limiter", "Permit", "QuotaError", "QuotaState", "UnitState"]

# What a call that makes one picture is charged; `polls` are charged only to callers that name them.
ONE_IMAGE: Final[Mapping[str, int]] = MappingProxyType({"requests": 1, "images": 1})

_PACKAGE: Final = Path(__file__).parent
_ACQUIRE: Final = LuaScript.load(_PACKAGE, "acquire")
_GIVE_BACK: Final = LuaScript.load(_PACKAGE, "give_back")
_SENT_LATE: Final = LuaScript.load(_PACKAGE, "sent_late")
_RELEASE: Final = LuaScript.load(_PACKAGE, "release")
_RENEW: Final = LuaScript.load(_PACKAGE, "renew")
_PENALISE: Final = LuaScript.load(_PACKAGE, "penalise")
_PAUSE: Final = LuaScript.load(_PACKAGE, "pause")
_SNAPSHOT: Final = LuaScript.load(_PACKAGE, "snapshot")

_PLANS_KEPT: Final = 1024
_LONGEST_WAIT_S: Final = 366 * 86_400  # so that infinity is a number of µs


class Limiter:
    """Grants, renews and ends permits for all quotas of one installation.

    `prefix` begins every key (on Redis Cluster: with a hash tag). A lease that is not renewed ends `lease_s`
    after its slot. `clock` replaces the server's time (integer µs) in every script: for tests and simulations
    in virtual time only, where all limiters of one server must share it.

    Errors: whatever the client raises, from every method; QuotaError only where it is named.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        prefix: str,
        *,
        lease_s: float = 15.0,
        clock: Callable[[], int] | None = None,
    ) -> None:
        if not (math.isfinite(lease_s) and lease_s > 0):
            raise ValueError(f"lease_s must be a positive number of seconds, not {lease_s}")
        self._client = client
        self._keys = LimiterKeys(prefix)
        self._lease_us = round(lease_s * 1e6)
        self._clock = clock
        self._plans: dict[tuple[object, ...], Plan] = {}
        # Unique over the fleet without a round trip: 64 random bits a limiter, then a count.
        self._grant_ids = _grant_ids(secrets.token_hex(8))

    async def acquire(
        self,
        quotas: Sequence[Quota],
        *,
        costs: Mapping[str, int] = ONE_IMAGE,
        holder: str,
        request_id: str,
        max_wait_s: float,
    ) -> Grant | Later:
        """Ask for one call under all limits of all `quotas`; all of them are charged, at one slot, or none.

        `costs` are units; a unit that is not named costs nothing. A slot further away than `max_wait_s` is
        Later. The same `request_id` asked again, because a reply was lost, has the same answer and is charged
        once: until half a lease after its slot, or its release or give_back. Use a new one for each attempt.
        Sleep `wait_us` from the moment this returns, by a monotonic clock, then send.

        Errors: QuotaError, at once, for a cost that no waiting could ever fit.
        """
        if not quotas:
            return Grant(Permit(request_id, holder, (), costs, (), ""), 0)
        if not max_wait_s >= 0:
            raise ValueError(f"max_wait_s must be a number of seconds from 0, not {max_wait_s}")
        plan = self._plan(quotas, costs)
        grant_id = next(self._grant_ids)
        granted, amount_us, detail = await _ACQUIRE(
            self._client,
            (*plan.keys, self._keys.permit(plan.names[0], request_id)),
            (
                self._now_us(),
                round(min(max_wait_s, _LONGEST_WAIT_S) * 1e6),
                self._lease_us,
                grant_id,
                _lease_member(grant_id, request_id, holder),
                plan.strings,
                *plan.rows,
            ),
        )
        if not granted:
            return Later(int(amount_us), _text(detail))
        permit = Permit(request_id, holder, plan.names, plan.costs, plan.leased, _text(detail))
        return Grant(permit, int(amount_us))

    async def give_back(self, permit: Permit) -> None:
        """Undo a grant whose call was not sent, not one byte of it. Twice is once.

        What strict windows were charged comes back exactly, and so do leases; tokens of a bucket come back
        only if nothing was granted from it since, and are lost otherwise. No bell: who gives back found
        nothing to send, and ringing would send the others looking for it in turn, for ever.
        """
        if not permit.quotas:
            return
        costs = [(unit, cost) for unit, cost in permit.costs.items() if cost]
        buckets = [self._keys.bucket(quota, unit) for quota in permit.quotas for unit, _ in costs]
        leases = [self._keys.leases(quota) for quota in permit.leased]
        logs = [self._keys.log(quota, unit) for quota in permit.quotas for unit, _ in costs]
        charged = [cost for _ in permit.quotas for _, cost in costs]
        await _GIVE_BACK(
            self._client,
            (self._record(permit), *buckets, *leases, *logs),
            (permit.grant_id, _member_of(permit), len(buckets), len(leases), *charged),
        )

    async def sent_late(self, permit: Permit) -> None:
        """The call is sent now, noticeably after its slot: strict windows count it from now on.

        Worth its round trip only for a delay that the guard does not cover, see `Quota.tolerance_s`.
        """
        costs = [(unit, cost) for unit, cost in permit.costs.items() if cost]
        logs = [self._keys.log(quota, unit) for quota in permit.quotas for unit, _ in costs]
        if logs:
            charged = [cost for _ in permit.quotas for _, cost in costs]
            await _SENT_LATE(self._client, logs, (self._now_us(), permit.grant_id, *charged))

    async def release(self, permit: Permit) -> bool:
        """The call has ended: its leases end, what it was charged stays. Twice is once.

        True if a lease was freed by this call, and then the doorbell rang: `slot` on `PREFIX:bell`.
        """
        if not permit.quotas:
            return False
        leases = [self._keys.leases(quota) for quota in permit.leased]
        freed = await _RELEASE(
            self._client,
            (self._record(permit), *leases),
            (permit.grant_id, _member_of(permit), self._keys.bell),
        )
        return int(freed) > 0

    async def renew(self, permits: Sequence[Permit]) -> list[Permit]:
        """Prolong the leases of all `permits` to `lease_s` from now, in one call; returns the unknown ones.

        Renew three times a lease. A permit that is returned has lost its place: its lease had been expired
        for a minute, or it was released. Permits without a lease need no renewal and are passed over.
        """
        pairs = [(permit, quota) for permit in permits for quota in permit.leased]
        if not pairs:
            return []
        numbers = {quota: number for number, quota in enumerate(dict.fromkeys(q for _, q in pairs), start=1)}
        args: list[str | int] = [self._now_us(), self._lease_us]
        for permit, quota in pairs:
            args += [numbers[quota], _member_of(permit)]
        lost = await _RENEW(self._client, [self._keys.leases(quota) for quota in numbers], args)
        lost_grants = {pairs[int(number) - 1][0].grant_id for number in lost}
        return [permit for permit in permits if permit.grant_id in lost_grants]

    async def penalise(self, quota_name: str, *, retry_after_s: float, reason: str) -> None:
        """The provider refused: no replica gets a slot under this quota for `retry_after_s` from now.

        Pauses merge to the latest end and are never shortened. `reason` is shown to operators.
        """
        if not (math.isfinite(retry_after_s) and retry_after_s >= 0):
            raise ValueError(f"retry_after_s must be a number of seconds from 0, not {retry_after_s}")
        pause_us = math.ceil(retry_after_s * 1e6)
        await _PENALISE(self._client, [self._keys.cooldown(quota_name)], [self._now_us(), pause_us, reason])

    async def pause(self, quota_name: str, reason: str, until_us: int | None = None) -> None:
        """An operator's stop, until `until_us` (µs of the server's clock) or, if None, until resumed."""
        await _PAUSE(self._client, [self._keys.pause(quota_name)], [self._now_us(), until_us or 0, reason])

    async def resume(self, quota_name: str) -> bool:
        """End an operator's pause, not a provider's cooldown; True if there was one (then the bell rang)."""
        if not await self._client.delete(self._keys.pause(quota_name)):
            return False
        await self._client.publish(self._keys.bell, "slot")
        return True

    async def snapshot(self, quotas: Sequence[Quota]) -> list[QuotaState]:
        """The state of each quota at one instant, in the order given; reads only, one call."""
        if not quotas:
            return []
        plan = plan_for(self._keys, quotas, None)
        replies = await _SNAPSHOT(self._client, plan.keys, (self._now_us(), plan.strings, *plan.rows))
        heads, rows = iter(replies[: 2 * len(quotas)]), iter(replies[2 * len(quotas) :])
        return [_state(quota, heads, rows) for quota in quotas]

    def _plan(self, quotas: Sequence[Quota], costs: Mapping[str, int]) -> Plan:
        # Names find the plan, and equality (mostly identity, hence cheap) proves it: hashing whole quotas
        # costs more than the rest of a call's preparation.
        key = (*(quota.name for quota in quotas), *costs.items())
        plan = self._plans.get(key)
        if plan is None or plan.quotas != tuple(quotas):
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[key] = plan_for(self._keys, quotas, costs)
        return plan

    def _now_us(self) -> str | int:
        return "" if self._clock is None else self._clock()

    def _record(self, permit: Permit) -> str:
        return self._keys.permit(permit.quotas[0], permit.request_id)


def _grant_ids(origin: str) -> Iterator[str]:
    return (f"{origin}{number:x}" for number in count())


def _lease_member(grant_id: str, request_id: str, holder: str) -> str:
    """Unique by its first word; the rest tells an operator who looks whose call it is."""
    return f"{grant_id} {request_id} {holder}"


def _member_of(permit: Permit) -> str:
    return _lease_member(permit.grant_id, permit.request_id, permit.holder)


def _state(quota: Quota, heads: Iterator[list[bytes]], rows: Iterator[list[bytes]]) -> QuotaState:
    paused, (rest_us, generation, reason) = next(heads), next(heads)
    units: list[UnitState] = []
    in_flight = 0
    for limit in quota.limits:
        figure = int(next(rows)[0])
        capacity = limit.burst if isinstance(limit, Bucket) else limit.count
        if limit.unit == "in_flight":
            in_flight, figure = figure, max(0, capacity - figure)
        units.append(UnitState(limit.unit, capacity, figure))
    return QuotaState(
        quota=quota.name,
        units=tuple(units),
        in_flight=in_flight,
        cooldown_s=int(rest_us) / 1e6,
        cooldown_reason=_text(reason) if int(rest_us) else None,
        cooldown_generation=int(generation),
        paused_reason=_text(paused[0]) if paused else None,
    )


def _text(reply: bytes | str) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply
