"""What becomes of a permit: renewed, submitted, released, given back, or sent late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from limiter.permit import Permit
from limiter.quota.limits import IN_FLIGHT
from limiter.quota.quota import Quota
from limiter.script import LuaScript, uninterrupted
from limiter.server import Server, text_of

_HERE: Final = Path(__file__).parent
_GIVE_BACK: Final = LuaScript.load(_HERE, "give_back")
_RELEASE: Final = LuaScript.load(_HERE, "release")
_RENEW: Final = LuaScript.load(_HERE, "renew")
_SENT_LATE: Final = LuaScript.load(_HERE, "sent_late")


class Permits(Server):
    """The calls of a permit's owner."""

    async def renew(self, permits: Sequence[Permit]) -> list[Permit]:
        """Prolong the leases of all `permits` to `lease_s` from now, in one call; returns the unknown ones.

        Renew three times a lease. A permit that is returned has lost its place: its lease had been expired
        for a minute, or it was released. Permits without a lease need no renewal and are passed over.
        """
        return await self._prolong(permits, self._lease_us)

    async def submitted(self, permit: Permit, *, longest_s: float) -> None:
        """The provider has the job: its leases count for `longest_s` from now, renewed or not.

        For providers that run a job after the call has ended. A worker that dies leaves its job at the provider,
        where it occupies the account until it ends; `longest_s` is how long that can take at most. The job's next
        owner adopts the permit and releases it when it sees the end.
        """
        if not (math.isfinite(longest_s) and longest_s > 0):
            raise ValueError(f"longest_s must be a positive number of seconds, not {longest_s}")
        await self._prolong([permit], math.ceil(longest_s * 1e6))

    async def release(self, permit: Permit) -> bool:
        """The call has ended: its leases end, what it was charged stays. Twice is once.

        True if a lease was freed by this call. Then the doorbell rang on `PREFIX:bell`: `slot`, and the
        holders that have waited longest for such a lease; without holders it is for everybody.
        """
        if not permit.quotas:
            return False
        pairs = [self._keys.of(quota, name) for quota in permit.leased for name in ("leases", "waiting")]
        keys = (self._keys.clock, self._record(permit), *pairs)
        args = (self._now_us(), permit.grant_id, permit.who, self._keys.bell, *permit.weights)
        return int(await uninterrupted(_RELEASE(self._client, keys, args))) > 0

    async def give_back(self, permit: Permit) -> None:
        """Undo a grant whose call was not sent, not one byte of it, or a reservation. Twice is once.

        What was charged comes back exactly, with two exceptions, in which it is lost: tokens of a bucket from
        which dozens were granted since, and units of a day or of a very large window half a lease after the slot.
        The bell does not ring: this caller found nothing to send, and ringing would send the others looking for
        it in turn, for ever.
        """
        if not permit.quotas:
            return
        leases = [(self._keys.of(quota, "leases"), weight) for quota, weight in permit.leases]
        books = [
            (book, cost)
            for unit, cost in permit.costs.items()
            if cost and unit != IN_FLIGHT
            for quota in permit.quotas
            for book in self._keys.books(quota, unit)
        ]
        keys = [self._record(permit), *(key for key, _ in leases + books)]
        args: list[str | int] = [
            permit.grant_id,
            permit.who,
            len(leases),
            *(cost for _, cost in leases + books),
        ]
        await uninterrupted(_GIVE_BACK(self._client, keys, args))

    async def sent_late(self, permit: Permit, quotas: Sequence[Quota]) -> None:
        """The call is sent now, noticeably after its slot: windows and buckets count it from now on.

        `quotas` are those that it was granted under. Worth its round trip only for a delay that the guard does not
        cover, see `Quota.tolerance_s`. Around midnight a calendar day keeps two seconds free on either side, and
        counts the call where it was granted.
        """
        books = self._plan(quotas, permit.costs).late if quotas else {}
        if books:
            keys = (self._keys.clock, self._record(permit), *books)
            args = [self._now_us(), permit.grant_id, *chain.from_iterable(books.values())]
            await uninterrupted(_SENT_LATE(self._client, keys, args))

    async def _prolong(self, permits: Sequence[Permit], by_us: int) -> list[Permit]:
        """Let the leases of all `permits` end `by_us` from now at the earliest; returns the unknown ones."""
        held = [(permit, quota, weight) for permit in permits for quota, weight in permit.leases]
        if not held:
            return []
        keys = dict.fromkeys(self._keys.of(quota, "leases") for _, quota, _ in held)
        numbers = {key: number for number, key in enumerate(keys, start=2)}
        args: list[str | int] = [self._now_us(), by_us, self._epoch]
        for permit, quota, weight in held:
            args += [numbers[self._keys.of(quota, "leases")], permit.grant_id, permit.who, weight]
        epoch, *lost = await uninterrupted(_RENEW(self._client, (self._keys.clock, *keys), args))
        self._epoch = text_of(epoch)
        lost_grants = {held[int(number) - 1][0].grant_id for number in lost}
        return [permit for permit in permits if permit.grant_id in lost_grants]
