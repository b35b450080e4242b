"""Waits for permits: requests one, sleeps until its slot, and gives back each unused charge."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from redis.exceptions import RedisError

from limiter.limiter import Limiter
from limiter.permit import Grant, Later, Permit
from limiter.quota.quota import Quota
from limiter.recalls import Recalls
from limiter.script import uninterrupted
from limiter.scripts.grants import ONE_IMAGE

# One counter for the whole process: a request with a used id would get the former grant and charge nothing.
_NUMBERS = itertools.count()


class Slot(NamedTuple):
    """A permit whose slot has come, or comes soon; all times are by the clock of recalls.

    A reply of Redis takes its time, so the slot lies between `at`, from which a call counts as late, and `leaves_at`,
    before which it must not leave. `requested_at` is the first request.
    """

    permit: Permit
    at: float
    leaves_at: float
    requested_at: float


@dataclass(slots=True)
class _Request:
    """A request without a slot so far. `repeat` repeats a call whose reply is missing."""

    request_id: str
    horizon_s: float = 0.0
    requested_at: float = 0.0
    sent_at: float = 0.0
    quotas: Sequence[Quota] = ()
    reply: Grant | Later | None = None
    repeat: Callable[[], Awaitable[Grant | Later]] | None = None


class Slots:
    """The slots of one caller, one after the other. All times are seconds of the clock of `recalls`.

    `holder` is unique among processes; `name` is for people. After a denial or a lost reply the request stays the same
    until a grant or `leave`: it is charged once and may have a reservation. While it is open, do not change its quotas
    and costs. Not for two tasks at once.
    """

    def __init__(self, limiter: Limiter, recalls: Recalls, holder: str, name: str) -> None:
        self._limiter = limiter
        self._recalls = recalls
        self._holder = holder
        self._name = name
        self._request: _Request | None = None

    async def request(
        self, quotas: Sequence[Quota], costs: Mapping[str, int] = ONE_IMAGE, *, horizon_s: float
    ) -> Grant | Later:
        """Request a slot at most `horizon_s` away. After a grant call `wait`; after a denial try again or `leave`.

        Errors: those of `Limiter.acquire`; after an error try again or `leave`.
        """
        if self._request is not None and isinstance(self._request.reply, Grant):
            await self.leave()
        request = self._request = self._request or _Request(f"{self._holder}:{self._name}:{next(_NUMBERS)}")
        request.horizon_s, request.quotas, request.sent_at = horizon_s, quotas, self._recalls.clock()
        # Keep the time of the first try: its lost reply may have been a grant.
        if request.repeat is None:
            request.requested_at = request.sent_at
        denial = request.reply if isinstance(request.reply, Later) else None
        lost = request.repeat
        request.repeat = lambda: self._limiter.acquire(
            quotas,
            costs=costs,
            holder=self._holder,
            request_id=request.request_id,
            max_wait_s=horizon_s,
            after=denial,
        )
        try:
            request.reply = await request.repeat()
        except ValueError:
            # This call was never sent, so the caller may still hold the grant of an earlier lost reply.
            request.repeat = lost
            raise
        request.repeat = None
        return request.reply

    def retry_s(self, denial: Later) -> float:
        """How many seconds to wait before the next try.

        The limiter names the first moment at which one slot is near enough. Each later slot would then cost one request
        in vain, so wait half a horizon longer, until several are near enough.
        """
        horizon_s = self._request.horizon_s if self._request and denial.bound.ends_by_itself else 0.0
        return denial.retry_us / 1e6 + horizon_s / 2

    async def wait(self, grant: Grant, *, early_s: float = 0.0) -> Slot | None:
        """Sleep until the slot of the latest grant, or until `early_s` before it: the caller then keeps to `leaves_at`.

        Returns None, and gives the grant back, if it is recalled before its slot, or if this process stood still for so
        long that other calls may have its units or its place in flight. A cancelled caller gives it back with `leave`.
        """
        request = self._granted(grant)
        slot = self._slot(grant, request)
        came = await self._recalls.sleep(grant.permit, request.requested_at, slot.leaves_at - early_s)
        now = self._recalls.clock()
        if came and not (grant.permit.leased and now - slot.at > self._limiter.lease_s / 2):
            if now - slot.at > min(quota.tolerance_s for quota in request.quotas):
                came = await self._limiter.retime(grant.permit, request.quotas)
                slot = slot._replace(at=now)
            if came:
                self._request = None
                return slot
        await self.leave()
        return None

    def take(self, grant: Grant) -> Slot:
        """Take the slot of the latest grant without a sleep: the caller keeps to it. `leave` then has nothing to do."""
        request = self._granted(grant)
        self._request = None
        return self._slot(grant, request)

    def _slot(self, grant: Grant, request: _Request) -> Slot:
        wait_s = grant.wait_us / 1e6
        # Count lateness from the request, and the wait from the reply: a call never leaves early.
        return Slot(
            grant.permit, request.sent_at + wait_s, self._recalls.clock() + wait_s, request.requested_at
        )

    def _granted(self, grant: Grant) -> _Request:
        if self._request is None or self._request.reply is not grant:
            raise ValueError("only the grant that was requested last has a slot")
        return self._request

    async def leave(self) -> None:
        """Give back what this caller may hold: an unused grant, a reservation, or the grant of a lost reply.

        If Redis is away, one call's quota is lost, as when a process dies.
        """
        if self._request is not None:
            await uninterrupted(self._leave(self._request))

    async def _leave(self, request: _Request) -> None:
        self._request = None
        reply = request.reply
        if request.repeat is not None:
            # A refused cost, or a clock between two days, was never a grant.
            with suppress(RedisError, ValueError):
                reply = await request.repeat()
        if reply is not None and reply.charged is not None:
            with suppress(RedisError):
                await self._limiter.give_back(reply.charged)
