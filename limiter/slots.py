"""Waits for permits: requests one, sleeps until its slot, and gives back each unused charge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from redis.exceptions import RedisError

from limiter.limiter import Limiter
from limiter.permit import Grant, Later, Permit
from limiter.quota.limits import IN_FLIGHT
from limiter.quota.quota import Quota
from limiter.script import uninterrupted
from limiter.scripts.grants import ONE_IMAGE, NotRequested, Step
from limiter.waits import Places, Recalls

# One counter for the whole process: a request with a used id would get the former grant and charge nothing.
_NUMBERS = itertools.count()
# How often a caller without `Places` looks for a place, and one with them, whom the bell wakes: as in leases.lua.
LOOK_ALONE_S: Final = 1.0
PLACE_LOOK_US: Final = 5_000_000


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

    `holder` is unique among processes, and `name` among the callers of one process: under both a caller stands in line
    for a place in flight. With the `places` of its process the bell calls it; without, it looks every second. After a
    denial or a lost reply the request stays the same until a grant or `leave`: it is charged once and may have a
    reservation. While it is open, do not change its quotas and costs. Not for two tasks at once.
    """

    def __init__(
        self, limiter: Limiter, recalls: Recalls, holder: str, name: str, places: Places | None = None
    ) -> None:
        self._limiter = limiter
        self._recalls = recalls
        self._holder = f"{holder}/{name}"
        self._places = Places(limiter) if places is None else places
        self._look_s = LOOK_ALONE_S if places is None else math.inf
        self._request: _Request | None = None
        self._full: Later | None = None  # the denial of the next request, as the last grant predicts it
        self._line: Sequence[Quota] = ()  # this caller stands in line for places of these quotas

    async def request(
        self,
        quotas: Sequence[Quota],
        costs: Mapping[str, int] = ONE_IMAGE,
        *,
        horizon_s: float,
        more: bool = False,
        step: Step | None = None,
    ) -> Grant | Later:
        """Request a slot at most `horizon_s` away. After a grant call `wait`; after a denial `pause` or `leave`.

        With `more` another request follows after a grant. If the grant took the last place in flight, that request is
        denied without a round trip, and stands in line already. The `step` is that of `Limiter.acquire`; `leave`, which
        may repeat the request, does not run it.

        Errors: those of `Limiter.acquire`; after an error try again or `leave`.
        """
        if self._request is not None and isinstance(self._request.reply, Grant):
            await self.leave()
        if self._full is not None:
            denied, self._full = self._full, None
            return denied
        request = self._request = self._request or _Request(f"{self._holder}:{next(_NUMBERS)}")
        request.quotas, request.horizon_s, request.sent_at = quotas, horizon_s, self._recalls.clock()
        # Keep the time of the first try: its lost reply may have been a grant.
        if request.repeat is None:
            request.requested_at = request.sent_at
        denial = request.reply if isinstance(request.reply, Later) else None
        lost = request.repeat
        with self._places.requested(self._holder, quotas) as ended:

            def acquire(step: Step | None = None) -> Awaitable[Grant | Later]:
                return self._limiter.acquire(
                    quotas,
                    costs=costs,
                    holder=self._holder,
                    request_id=request.request_id,
                    max_wait_s=horizon_s,
                    after=denial,
                    more=more,
                    ended=ended,
                    step=step,
                )

            request.repeat = acquire
            try:
                reply = await acquire(step)
            except (ValueError, NotRequested):
                # This call was never sent, so the caller may still hold the grant of an earlier lost reply.
                request.repeat = lost
                raise
        request.repeat = None
        request.reply = reply
        if isinstance(reply, Grant) and reply.full is not None:
            self._full = Later(PLACE_LOOK_US, reply.full)
        self._line = quotas if _stands_in_line(reply) else ()
        if not self._line:
            self._places.leave(self._holder)
        return reply

    async def pause(self, denial: Later, longest_s: float = math.inf) -> None:
        """Wait until the next try after a denial is worth it, for `longest_s` at most."""
        retry_s = min(self.retry_s(denial), longest_s)
        if denial.bound.cause == IN_FLIGHT:
            await self._places.wait(self._holder, min(retry_s, self._look_s))
        else:
            await self._recalls.wait(retry_s)

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
            if now - slot.at > min((quota.tolerance_s for quota in request.quotas), default=math.inf):
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
        """Give back what this caller may hold: an unused grant, a reservation, its turn, or the grant of a lost reply.

        If Redis is away, one call's quota is lost, as when a process dies.
        """
        await uninterrupted(self._leave())

    async def _leave(self) -> None:
        request, line = self._request, self._line
        self._request, self._line, self._full = None, (), None
        self._places.leave(self._holder)
        reply = None if request is None else request.reply
        if request is not None and request.repeat is not None:
            # A refused cost, or a clock between two days, was never a grant.
            with suppress(RedisError, ValueError):
                reply = await request.repeat()
                line = request.quotas if _stands_in_line(reply) else ()
        if line:
            with suppress(RedisError):
                await self._limiter.leave_line(self._holder, line)
        if reply is not None and reply.charged is not None:
            with suppress(RedisError):
                await self._give_back(reply.charged)

    async def _give_back(self, charged: Permit) -> None:
        try:
            await self._limiter.give_back(charged)
        except RedisError:
            # After a restart of Redis the first call may find a broken connection, and the next one makes its own.
            await self._limiter.give_back(charged)


def _stands_in_line(reply: Grant | Later) -> bool:
    """Whether its caller stands in line for a place, for this request or the next one."""
    return reply.full is not None if isinstance(reply, Grant) else reply.bound.cause == IN_FLIGHT
