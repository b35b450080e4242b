"""Quotas shared by a whole fleet: permits for provider calls, decided in Redis, one atomic call each.

If Redis cannot answer, the error reaches the caller and nothing may be sent: there is never a local fallback.
The scripts are in limiter/scripts; this file is the only one that calls them.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from limiter.explain import Explanation
from limiter.keys import LimiterKeys
from limiter.learning.headers import HeaderReading
from limiter.lua import LuaScript
from limiter.permit import Grant, Later, Penalty, Permit, QuotaState, UnitState
from limiter.quota.limits import PERIODS_US
from limiter.quota.quota import Quota, QuotaError
from limiter.scripts import charges, leases, looking, refusals
from limiter.scripts.acquire import Question, ask
from limiter.scripts.refusals import Refusal
from limiter.server import Server
from limiter.steps import finished, uninterrupted

__all__ = ["ONE_IMAGE", "Grant", "Later", "Limiter", "Permit", "QuotaError", "QuotaState", "UnitState"]

# What a call that makes one picture is charged; `polls` are charged only to callers that name them.
ONE_IMAGE: Final[Mapping[str, int]] = MappingProxyType({"requests": 1, "images": 1})

_SPREAD: Final = LuaScript.load(Path(__file__).parent / "scripts", "spread")


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
        self._server = Server(client, LimiterKeys(prefix), clock)
        self._keys = self._server.keys
        self._client = client
        self._lease_us = round(lease_s * 1e6)
        # Unique over the fleet without a round trip: 64 random bits a limiter, then a count.
        self._grant_ids = _grant_ids(secrets.token_hex(8))

    @property
    def lease_s(self) -> float:
        """How long a place in flight is kept that nobody renews."""
        return self._lease_us / 1e6

    async def acquire(
        self,
        quotas: Sequence[Quota],
        *,
        costs: Mapping[str, int] = ONE_IMAGE,
        holder: str,
        request_id: str,
        max_wait_s: float,
        after: Later | None = None,
    ) -> Grant | Later:
        """Ask for one call under all limits of all `quotas`; all of them are charged, at one slot, or none.

        `costs` are units; a unit that is not named costs nothing, and `in_flight` is the weight of the lease
        (unnamed: 1). What costs nothing but polls passes pauses and cooldowns, which are about new calls. The slot
        is the earliest that suits all, also a gap before later reservations; one further away than `max_wait_s` is
        Later. The same `request_id` asked again, because a reply was lost, has the same
        answer and is charged once: until half a lease after its slot, or its release or give_back. Use a new one
        for each attempt. Sleep `wait_us` from the moment this returns, by a monotonic clock, then send. A caller
        that is cancelled meanwhile has been granted nothing.

        Who is told Later and asks again should say what it was told (`after`), with the same `request_id`: told Later
        once more for a rate, it has a turn, which nobody overtakes; where a pause or a place in flight is what is
        missing, it has none, since who waits for those is known apart. Without, a call that looks ahead less far than
        the backlog draws lots with the others, and one of many units may starve.

        Errors: QuotaError, at once, for a cost that no waiting could ever fit.
        """
        if not quotas:
            return Grant(Permit(request_id, holder, (), costs, (), ""), 0)
        if not max_wait_s >= 0:
            raise ValueError(f"max_wait_s must be a number of seconds from 0, not {max_wait_s}")
        if holder.split() != [holder]:
            raise ValueError(f"a holder is one word without spaces, not {holder!r}")
        plan = self._server.plan(quotas, costs)
        question = Question(
            plan,
            holder,
            request_id,
            next(self._grant_ids),
            max_wait_s,
            self._lease_us,
            wants_turn=after is not None,
        )
        asking = asyncio.ensure_future(ask(self._server, question))
        try:
            return await finished(asking)
        except asyncio.CancelledError:
            if not asking.cancelled() and asking.exception() is None:
                answer = asking.result()
                charged = answer.permit if isinstance(answer, Grant) else answer.turn
                # Where Redis is away now, its lease ends by itself; who was cancelled must hear of that alone.
                if charged is not None:
                    with suppress(RedisError):
                        await self.give_back(charged)
            raise

    async def give_back(self, permit: Permit) -> None:
        """Undo a grant whose call was not sent, not one byte of it, or a turn. Twice is once.

        What was charged comes back exactly, with two exceptions, in which it is lost: tokens of a bucket from
        which dozens were granted since, and units of a day or of a very large window half a lease after the slot.
        No bell: who gives back found nothing to send, and ringing would send the others looking for it in turn,
        for ever.
        """
        await charges.give_back(self._server, permit)

    async def sent_late(self, permit: Permit, quotas: Sequence[Quota]) -> None:
        """The call is sent now, noticeably after its slot: windows and buckets count it from now on.

        `quotas` are those that it was granted under. Worth its round trip only for a delay that the guard does not
        cover, see `Quota.tolerance_s`. Around midnight a calendar day keeps two seconds free on either side, and
        counts the call where it was granted.
        """
        await charges.sent_late(self._server, permit, quotas)

    async def submitted(self, permit: Permit, *, longest_s: float) -> None:
        """The provider has the job: its leases count for `longest_s` from now, whoever renews them or does not.

        For providers that run a job after the call has ended. A worker that dies leaves its job at the provider,
        where it occupies the account until it ends; `longest_s` is how long that can take at most. The job's next
        owner adopts the permit and releases it when it sees the end.
        """
        if not (math.isfinite(longest_s) and longest_s > 0):
            raise ValueError(f"longest_s must be a positive number of seconds, not {longest_s}")
        await leases.prolong(self._server, [permit], math.ceil(longest_s * 1e6))

    async def release(self, permit: Permit) -> bool:
        """The call has ended: its leases end, what it was charged stays. Twice is once.

        True if a lease was freed by this call, and then the doorbell rang on `PREFIX:bell`: `slot`, and the
        holders that have waited longest for such a lease; without holders it is for everybody.
        """
        return await leases.release(self._server, permit)

    async def renew(self, permits: Sequence[Permit]) -> list[Permit]:
        """Prolong the leases of all `permits` to `lease_s` from now, in one call; returns the unknown ones.

        Renew three times a lease. A permit that is returned has lost its place: its lease had been expired
        for a minute, or it was released. Permits without a lease need no renewal and are passed over.
        """
        return await leases.prolong(self._server, permits, self._lease_us)

    async def penalise(
        self,
        quota: Quota,
        *,
        reason: str,
        retry_after_s: float | None = None,
        kind: Refusal = "rate",
        permit: Permit | None = None,
    ) -> Penalty:
        """The provider refused the call of `permit`: no replica gets a slot under this quota for `retry_after_s`.

        Without `retry_after_s` the pause is a second, twice as much for each refusal that follows soon, a minute
        at most. Pauses merge to the latest end and are never shortened; after one, slots come evenly for a period.
        Grants that were not sent have to ask again: the bell says so (`quota NAME UNTIL_US`), for those with
        `granted_us` up to then. Calls that had been granted before the last cut cut no more. What is cut: of a
        quota that learns, its rate; by kind `concurrency`, how many calls may be in flight (one more is tried
        after half a minute), which pauses nothing while others run, unless the provider said for how long; by
        `overload`, where the provider has no room for anybody, nothing.
        `reason` is shown to operators.
        """
        return await refusals.penalise(
            self._server, quota, permit, kind=kind, retry_after_s=retry_after_s, reason=reason
        )

    async def exhausted(
        self,
        quota: Quota,
        *,
        reason: str,
        retry_after_s: float | None = None,
        permit: Permit | None = None,
    ) -> int:
        """The provider's allowance is used up: pause until it is filled again; returns when (µs, server's clock).

        That is the quota's first midnight after `permit`'s call was sent (without it: from now on), else in
        `retry_after_s`, else in an hour. Never shortens a pause.
        """
        now_us = await self._server.time_us()
        sent_us = permit.slot_us if permit and 0 <= now_us - permit.slot_us < PERIODS_US["d"] else now_us
        until_us = refusals.refilled_us(quota, sent_us, now_us, retry_after_s)
        await refusals.pause(self._server, quota.name, reason, until_us, unless_longer=True)
        return until_us

    async def observe(self, quota: Quota, permit: Permit, readings: Iterable[HeaderReading]) -> int:
        """What the headers of the answer to `permit`'s call said of its limits, see `headers.read_headers`.

        Headers only tighten: where the provider has less left than our books promise, the difference counts as
        used by others until the limit resets. Asks the server only then; returns how many limits it was told of.
        """
        return await refusals.sync(self._server, quota, permit, readings)

    async def report_spread(self, spread_us: int) -> int:
        """Tell how unevenly this replica's calls arrive (`Lag.spread_us`); returns the figure that counts.

        The largest of all replicas, of the last minute, widens the guards of long windows, up to a hundredth of
        their period. Report every quarter of a minute.
        """
        return int(await uninterrupted(_SPREAD(self._client, [self._keys.spread], [spread_us])))

    async def pause(self, quota_name: str, reason: str, until_us: int | None = None) -> None:
        """An operator's stop, until `until_us` (µs of the server's clock) or, if None, until resumed."""
        await refusals.pause(self._server, quota_name, reason, until_us, unless_longer=False)

    async def resume(self, quota_name: str) -> bool:
        """End a pause of `pause` or `exhausted`, not a provider's cooldown; True if there was one."""
        return await uninterrupted(self._resume(quota_name))

    async def _resume(self, quota_name: str) -> bool:
        if not await self._client.delete(*self._keys.strings(quota_name)[:1]):
            return False
        await self._client.publish(self._keys.bell, f"quota {quota_name}")
        return True

    async def snapshot(self, quotas: Sequence[Quota]) -> list[QuotaState]:
        """The state of each quota at one instant, in the order given; reads only, one call."""
        return await looking.snapshot(self._server, quotas)

    async def explain(self, quotas: Sequence[Quota]) -> list[Explanation]:
        """What holds the next picture back under each quota, in the order given, and until when; charges nothing.

        Several calls, so the figures are of one instant only within a quota's state.
        """
        states = await self.snapshot(quotas)
        return [await self._explained(quota, state) for quota, state in zip(quotas, states, strict=True)]

    async def _explained(self, quota: Quota, state: QuotaState) -> Explanation:
        # Without its places in flight: who asks for one in vain is noted as waiting for it.
        plan = self._server.plan([looking.rates_of(quota)], ONE_IMAGE)
        # A wait of less than nothing is never granted, and the answer is when it would be.
        nobody = next(self._grant_ids)
        question = Question(plan, "explain", nobody, nobody, -looking.TICK_US / 1e6, self._lease_us)
        later = await ask(self._server, question)
        return looking.explanation(quota, state, later if isinstance(later, Later) else None)


def _grant_ids(origin: str) -> Iterator[str]:
    return (f"{origin}{number:x}" for number in count())
