"""Quotas shared by a whole fleet: permits for provider calls, decided in Redis, one atomic call each.

If Redis cannot answer, the error reaches the caller and nothing may be sent: there is never a local fallback.
The scripts are in limiter/scripts; this file is the only one that calls them.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Final

import redis.asyncio

from limiter.explain import Explanation, explained
from limiter.keys import LimiterKeys
from limiter.limits import IN_FLIGHT, InFlight
from limiter.lua import LuaScript
from limiter.permit import Grant, Later, Permit, QuotaState, UnitState
from limiter.plan import Plan, plan_for
from limiter.quota import Quota, QuotaError
from limiter.steps import finished, uninterrupted

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

_OTHER_DAY: Final = 2  # acquire.lua: the server's day is none of those it was told of
_PLANS_KEPT: Final = 1024
_TICK_US: Final = 1
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
        self._skew_us = 0
        # Which life of the stored state was seen last: whoever has seen one can tell when it is gone.
        self._epoch = ""
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

        `costs` are units; a unit that is not named costs nothing, and `in_flight` is the weight of the lease
        (unnamed: 1). The slot is the earliest that suits all, also a gap before later reservations; one further
        away than `max_wait_s` is Later. The same `request_id` asked again, because a reply was lost, has the same
        answer and is charged once: until half a lease after its slot, or its release or give_back. Use a new one
        for each attempt. Sleep `wait_us` from the moment this returns, by a monotonic clock, then send. A caller
        that is cancelled meanwhile has been granted nothing.

        Errors: QuotaError, at once, for a cost that no waiting could ever fit.
        """
        if not quotas:
            return Grant(Permit(request_id, holder, (), costs, (), ""), 0)
        if not max_wait_s >= 0:
            raise ValueError(f"max_wait_s must be a number of seconds from 0, not {max_wait_s}")
        if holder.split() != [holder]:
            raise ValueError(f"a holder is one word without spaces, not {holder!r}")
        plan = self._plan(quotas, costs)
        asking = asyncio.ensure_future(self._ask(plan, holder, request_id, max_wait_s))
        try:
            return await finished(asking)
        except asyncio.CancelledError:
            if not asking.cancelled() and asking.exception() is None:
                answer = asking.result()
                if isinstance(answer, Grant):
                    await self.give_back(answer.permit)
            raise

    async def _ask(self, plan: Plan, holder: str, request_id: str, max_wait_s: float) -> Grant | Later:
        grant_id = next(self._grant_ids)
        record = self._keys.permit(plan.names[0], request_id)
        keys = (plan.keys[0], record, *plan.keys[2:])
        max_wait_us = round(min(max_wait_s, _LONGEST_WAIT_S) * 1e6)
        for _ in range(2):
            head = (self._now_us(), max_wait_us, self._lease_us, grant_id, request_id, holder, self._epoch)
            granted, amount_us, *detail = await _ACQUIRE(
                self._client, keys, (*head, plan.strings, *plan.rows_at(self._wall_us()))
            )
            if granted != _OTHER_DAY:
                break
            # This process's clock is days away from the server's, which alone decides.
            self._skew_us = int(amount_us) - time.time_ns() // 1000
        else:
            raise QuotaError("the server's clock moves between days; calendar days cannot be counted")
        # A table of Lua ends before its first nil: where nothing stands in the way, as `explain` can hear, no bound.
        name, epoch = (*(_text(each) for each in detail), "", "")[:2]
        self._epoch = epoch or self._epoch
        if not granted:
            return Later(int(amount_us), name)
        weights = tuple(plan.leased.values())
        permit = Permit(request_id, holder, plan.names, plan.costs, tuple(plan.leased), name, weights)
        return Grant(permit, int(amount_us))

    async def give_back(self, permit: Permit) -> None:
        """Undo a grant whose call was not sent, not one byte of it. Twice is once.

        What was charged comes back exactly, with two exceptions, in which it is lost: tokens of a bucket from
        which dozens were granted since, and units of a day or of a very large window half a lease after the slot.
        No bell: who gives back found nothing to send, and ringing would send the others looking for it in turn,
        for ever.
        """
        if not permit.quotas:
            return
        charged = list(_charged(permit))
        logs = [(self._keys.log(quota, unit), cost) for quota, unit, cost in charged]
        logs += [(self._keys.leases(quota), weight) for quota, weight in permit.leases]
        tokens = [(self._keys.tokens(quota, unit), cost) for quota, unit, cost in charged]
        hashes = [
            (key(quota, unit), cost)
            for key in (self._keys.slices, self._keys.day)
            for quota, unit, cost in charged
        ]
        keys, costs = zip(*logs, *tokens, *hashes, strict=True) if charged or logs else ((), ())
        await uninterrupted(
            _GIVE_BACK(
                self._client,
                (self._record(permit), *keys),
                (permit.grant_id, _who(permit), len(logs), len(logs) + len(tokens), *costs),
            )
        )

    async def sent_late(self, permit: Permit) -> None:
        """The call is sent now, noticeably after its slot: strict windows count it from now on.

        Worth its round trip only for a delay that the guard does not cover, see `Quota.tolerance_s`.
        """
        logs = {self._keys.log(quota, unit): cost for quota, unit, cost in _charged(permit)}
        if logs:
            args = (self._now_us(), permit.grant_id, *logs.values())
            await _SENT_LATE(self._client, (self._keys.clock, *logs), args)

    async def submitted(self, permit: Permit, *, longest_s: float) -> None:
        """The provider has the job: its leases count for `longest_s` from now, whoever renews them or does not.

        For providers that run a job after the call has ended. A worker that dies leaves its job at the provider,
        where it occupies the account until it ends; `longest_s` is how long that can take at most. The job's next
        owner adopts the permit and releases it when it sees the end.
        """
        if not (math.isfinite(longest_s) and longest_s > 0):
            raise ValueError(f"longest_s must be a positive number of seconds, not {longest_s}")
        await self._prolong([permit], math.ceil(longest_s * 1e6))

    async def release(self, permit: Permit) -> bool:
        """The call has ended: its leases end, what it was charged stays. Twice is once.

        True if a lease was freed by this call, and then the doorbell rang on `PREFIX:bell`: `slot`, and the
        holders that have waited longest for such a lease; without holders it is for everybody.
        """
        if not permit.quotas:
            return False
        pairs = [key(quota) for quota in permit.leased for key in (self._keys.leases, self._keys.waiting)]
        freed = await uninterrupted(
            _RELEASE(
                self._client,
                (self._keys.clock, self._record(permit), *pairs),
                (self._now_us(), permit.grant_id, _who(permit), self._keys.bell, *permit.weights),
            )
        )
        return int(freed) > 0

    async def renew(self, permits: Sequence[Permit]) -> list[Permit]:
        """Prolong the leases of all `permits` to `lease_s` from now, in one call; returns the unknown ones.

        Renew three times a lease. A permit that is returned has lost its place: its lease had been expired
        for a minute, or it was released. Permits without a lease need no renewal and are passed over.
        """
        return await self._prolong(permits, self._lease_us)

    async def _prolong(self, permits: Sequence[Permit], by_us: int) -> list[Permit]:
        held = [(permit, quota, weight) for permit in permits for quota, weight in permit.leases]
        if not held:
            return []
        keys = dict.fromkeys(self._keys.leases(quota) for _, quota, _ in held)
        numbers = {key: number for number, key in enumerate(keys, start=2)}
        args: list[str | int] = [self._now_us(), by_us, self._epoch]
        for permit, quota, weight in held:
            args += [numbers[self._keys.leases(quota)], permit.grant_id, _who(permit), weight]
        epoch, *lost = await uninterrupted(_RENEW(self._client, (self._keys.clock, *keys), args))
        self._epoch = _text(epoch)
        lost_grants = {held[int(number) - 1][0].grant_id for number in lost}
        return [permit for permit in permits if permit.grant_id in lost_grants]

    async def penalise(self, quota_name: str, *, retry_after_s: float, reason: str) -> None:
        """The provider refused: no replica gets a slot under this quota for `retry_after_s` from now.

        Pauses merge to the latest end and are never shortened. `reason` is shown to operators.
        """
        if not (math.isfinite(retry_after_s) and retry_after_s >= 0):
            raise ValueError(f"retry_after_s must be a number of seconds from 0, not {retry_after_s}")
        pause_us = math.ceil(retry_after_s * 1e6)
        keys = (self._keys.clock, self._keys.cooldown(quota_name))
        await uninterrupted(_PENALISE(self._client, keys, (self._now_us(), pause_us, reason)))

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
        keys = (plan.keys[0], plan.keys[0], *plan.keys[2:])
        rows_now = plan.rows_at(self._wall_us())
        replies = await _SNAPSHOT(self._client, keys, (self._now_us(), plan.strings, *rows_now))
        heads, rows = iter(replies[: 2 * len(quotas)]), iter(replies[2 * len(quotas) :])
        return [_state(quota, heads, rows) for quota in quotas]

    async def explain(self, quotas: Sequence[Quota]) -> list[Explanation]:
        """What holds the next picture back under each quota, in the order given, and until when; charges nothing.

        Several calls, so the figures are of one instant only within a quota's state.
        """
        states = await self.snapshot(quotas)
        return [await self._explained(quota, state) for quota, state in zip(quotas, states, strict=True)]

    async def _explained(self, quota: Quota, state: QuotaState) -> Explanation:
        pause_ends_s = None
        if state.paused_reason is not None and (
            pause := await self._client.get(self._keys.pause(quota.name))
        ):
            ends_us = int(_text(pause).split(" ", 1)[0])
            pause_ends_s = max(0.0, (ends_us - await self._server_us()) / 1e6) if ends_us else None
        # Without its places in flight: who asks for one in vain is noted as waiting for it.
        rates = Quota(quota.name, tuple(each for each in quota.limits if not isinstance(each, InFlight)))
        plan = plan_for(self._keys, [rates], ONE_IMAGE)
        # A wait of less than nothing is never granted, and the answer is when it would be.
        later = await self._ask(plan, "explain", next(self._grant_ids), -_TICK_US / 1e6)
        wait_s = (later.retry_us - _TICK_US) / 1e6 if isinstance(later, Later) else 0.0
        bound = later.bound.rpartition(".")[2] if isinstance(later, Later) else None
        return explained(quota, state, rate_bound=bound, rate_s=wait_s, pause_ends_s=pause_ends_s)

    async def _server_us(self) -> int:
        if self._clock is not None:
            return self._clock()
        seconds, micros = await self._client.time()
        return int(seconds) * 1_000_000 + int(micros)

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

    def _wall_us(self) -> int:
        """About the server's time, only to say which days are near it."""
        return time.time_ns() // 1000 + self._skew_us if self._clock is None else self._clock()

    def _record(self, permit: Permit) -> str:
        return self._keys.permit(permit.quotas[0], permit.request_id)


def _grant_ids(origin: str) -> Iterator[str]:
    return (f"{origin}{number:x}" for number in count())


def _who(permit: Permit) -> str:
    """What tells an operator who looks at a lease whose it is."""
    return f"{permit.request_id} {permit.holder}"


def _charged(permit: Permit) -> Iterator[tuple[str, str, int]]:
    """(quota, unit, cost) of all that a grant can have been charged, its leases apart."""
    costs = [(unit, cost) for unit, cost in permit.costs.items() if cost and unit != IN_FLIGHT]
    return ((quota, unit, cost) for quota in permit.quotas for unit, cost in costs)


def _state(quota: Quota, heads: Iterator[list[bytes]], rows: Iterator[list[bytes]]) -> QuotaState:
    paused, (rest_us, generation, reason) = next(heads), next(heads)
    units: dict[str, UnitState] = {}
    in_flight = 0
    for limit in quota.limits:
        figure = int(next(rows)[0])
        if limit.unit == IN_FLIGHT:
            in_flight, figure = figure, max(0, limit.most - figure)
        known = units.get(limit.unit)
        if known is None or figure < known.available:
            units[limit.unit] = UnitState(limit.unit, limit.most, figure)
    return QuotaState(
        quota=quota.name,
        units=tuple(units.values()),
        in_flight=in_flight,
        cooldown_s=int(rest_us) / 1e6,
        cooldown_reason=_text(reason) if int(rest_us) else None,
        cooldown_generation=int(generation),
        paused_reason=_text(paused[0]) if paused else None,
    )


def _text(reply: bytes | str) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply
