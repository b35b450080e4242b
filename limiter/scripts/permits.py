"""The calls of a permit's owner: renew, submitted, release, give back, retime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from limiter.permit import Permit
from limiter.quota.limits import IN_FLIGHT, InFlight
from limiter.quota.quota import Quota
from limiter.script import LuaScript, uninterrupted
from limiter.server import Server, text_of

_HERE: Final = Path(__file__).parent
_GIVE_BACK: Final = LuaScript.load(_HERE, "give_back")
_RELEASE: Final = LuaScript.load(_HERE, "release")
_RENEW: Final = LuaScript.load(_HERE, "renew")
_RETIME: Final = LuaScript.load(_HERE, "retime")


class Permits(Server):
    """The calls of a permit's owner."""

    async def renew(self, permits: Sequence[Permit]) -> list[Permit]:
        """Prolong the leases of all `permits` to `lease_s` from now, in one call; returns the unknown permits.

        Renew three times a lease. An unknown permit has lost its place: its lease expired more than a minute ago, or it
        was released. Permits without a lease need no renewal and are skipped.
        """
        return await self._prolong(permits, self._lease_us)

    async def submitted(self, permit: Permit, *, longest_s: float) -> None:
        """Note that the provider has the job: the permit's leases count for `longest_s` from now, renewed or not.

        For providers that run a job after the call has ended. If a worker dies, its job occupies the account until it
        ends, which takes `longest_s` at most. The job's next owner adopts the permit and releases it at the end.
        """
        if not (math.isfinite(longest_s) and longest_s > 0):
            raise ValueError(f"longest_s must be a positive number of seconds, not {longest_s}")
        await self._prolong([permit], math.ceil(longest_s * 1e6))

    async def release(self, permit: Permit) -> bool:
        """Note that the call has ended: its leases end, its charges stay. Repeated calls change nothing.

        True if this call freed a lease. The doorbell `PREFIX:bell` then rings `slot` with the holders whose turn it is.
        """
        return await self._release(permit, "") > 0

    async def leave_line(self, holder: str, quotas: Sequence[Quota]) -> None:
        """Note that the holder no longer waits for a place in flight: freed places are for others at once."""
        leased = tuple(quota.name for quota in quotas if quota.limit(InFlight) is not None)
        if leased:
            await self._release(Permit("", holder, leased, {}, leased, "", (0,) * len(leased)), holder)

    async def _release(self, permit: Permit, leaver: str) -> int:
        if not permit.quotas:
            return 0
        keys = (self._keys.clock, self._record(permit), *self._lines(permit))
        args = (self._now_us(), permit.grant_id, permit.owner, self._keys.bell, leaver, *permit.weights)
        return int(await uninterrupted(_RELEASE(self._client, keys, args)))

    async def give_back(self, permit: Permit) -> None:
        """Undo a reservation, or a grant of whose call not one byte was sent. Repeated calls change nothing.

        The charges come back exactly, with two exceptions. Lost are tokens of a bucket that has granted dozens since,
        and units of a day or of a very large window half a lease after the slot. The bell rings as for a release. If
        the call was to go alone after a pause, the next one does.
        """
        if not permit.quotas:
            return
        books = [
            (book, cost)
            for unit, cost in permit.costs.items()
            if cost and unit != IN_FLIGHT
            for quota in permit.quotas
            for book in self._keys.books(quota, unit)
        ]
        cooldowns = [self._keys.of(quota, "cooldown") for quota in permit.quotas]
        keys = [self._keys.clock, self._record(permit), *self._lines(permit), *cooldowns]
        keys += [book for book, _ in books]
        args = [self._now_us(), permit.grant_id, permit.owner, self._keys.bell]
        args += [len(permit.leased), len(cooldowns)]
        args += [*permit.weights, *permit.quotas, *(cost for _, cost in books)]
        await uninterrupted(_GIVE_BACK(self._client, keys, args))

    async def retime(self, permit: Permit, quotas: Sequence[Quota], *, sent: bool = False) -> bool:
        """Let a call that is late for its slot count from now on; False if it must not be sent.

        `quotas` are those of its grant. Call this only for a delay that the guard does not cover, see
        `Quota.tolerance_s`. Calls of others may have left since its slot, so a limit may have no room now: then give
        the permit back. A call that was `sent` counts in any case, and the result is True. Grants with later slots that
        have no room any more are recalled. A calendar day counts the call at its slot, and grants nothing within two
        seconds of midnight.
        """
        if not quotas:
            return True
        plan = self._plan(quotas, permit.costs)
        keys = (plan.keys[0], self._record(permit), *plan.keys[2:])
        args = (self._now_us(), permit.grant_id, int(sent), self._keys.bell, *self._rows(plan))
        return int(await uninterrupted(_RETIME(self._client, keys, args))) == 1

    def _lines(self, permit: Permit) -> list[str]:
        """The keys of the permit's leases, and after each one its line."""
        return [self._keys.of(quota, name) for quota in permit.leased for name in ("leases", "waiting")]

    async def _prolong(self, permits: Sequence[Permit], by_us: int) -> list[Permit]:
        """Prolong the leases of all `permits` to at least `by_us` from now; returns the unknown permits."""
        held = [(permit, quota, weight) for permit in permits for quota, weight in permit.leases]
        if not held:
            return []
        keys = dict.fromkeys(self._keys.of(quota, "leases") for _, quota, _ in held)
        numbers = {key: number for number, key in enumerate(keys, start=2)}
        args: list[str | int] = [self._now_us(), by_us, self._epoch]
        for permit, quota, weight in held:
            args += [numbers[self._keys.of(quota, "leases")], permit.grant_id, permit.owner, weight]
        epoch, *lost = await uninterrupted(_RENEW(self._client, (self._keys.clock, *keys), args))
        self._epoch = text_of(epoch)
        lost_grants = {held[int(number) - 1][0].grant_id for number in lost}
        return [permit for permit in permits if permit.grant_id in lost_grants]
