"""The one way to wait for a permit: request it, sleep until its slot, and leave nothing charged that is not used."""

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

# One count for the whole process: a request with a repeated id would have the former grant, and charge nothing.
_NUMBERS = itertools.count()


class Slot(NamedTuple):
    """A permit whose slot has come, and two times of the clock: its slot, and when it was first requested."""

    permit: Permit
    at: float
    requested_at: float


@dataclass(slots=True)
class _Request:
    """A request that has no slot yet. `repeat` is the call whose reply is missing."""

    request_id: str
    horizon_s: float = 0.0
    requested_at: float = 0.0
    sent_at: float = 0.0
    reply: Grant | Later | None = None
    repeat: Callable[[], Awaitable[Grant | Later]] | None = None


class Slots:
    """The slots of one caller, one after the other. All times are seconds of the clock of `recalls`.

    `holder` is unique among processes; `name` is for people. A request that is denied, or whose reply is lost, stays
    the same request until it is granted or left: it is charged once and may have a reservation. While it is open, its
    quotas and costs stay the same. Not for two tasks at once.
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
        """Request a slot at most `horizon_s` away. After a grant `wait`; after a denial try again, or `leave`.

        Errors: those of `Limiter.acquire`; after one, try again or `leave`.
        """
        if self._request is not None and isinstance(self._request.reply, Grant):
            await self.leave()
        request = self._request = self._request or _Request(f"{self._holder}:{self._name}:{next(_NUMBERS)}")
        request.horizon_s, request.sent_at = horizon_s, self._recalls.clock()
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
            # It was refused before it could be granted, so an earlier reply is still what this caller may hold.
            request.repeat = lost
            raise
        request.repeat = None
        return request.reply

    def retry_s(self, denial: Later) -> float:
        """In how long (seconds) another try is worth it.

        The limiter names the first moment at which a slot is near enough. At that moment only one is, and each one
        after it would be requested in vain once; so wait for half a horizon of them.
        """
        horizon_s = self._request.horizon_s if self._request and denial.bound.ends_by_itself else 0.0
        return denial.retry_us / 1e6 + horizon_s / 2

    async def wait(self, grant: Grant) -> Slot | None:
        """Sleep until the slot of the grant that was just requested.

        None, and nothing stays charged, if the grant is recalled before, or if this process stood still for so long
        that its place in flight may belong to another call by now. If the caller is cancelled, `leave` gives it back.
        """
        # The call leaves a wait after its reply, so never early.
        leaves_at = self._recalls.clock() + grant.wait_us / 1e6
        request = self._granted(grant)
        came = await self._recalls.sleep(grant.permit, request.requested_at, leaves_at)
        late_s = self._recalls.clock() - request.sent_at - grant.wait_us / 1e6
        if came and not (grant.permit.leased and late_s > self._limiter.lease_s / 2):
            return self.take(grant)
        await self.leave()
        return None

    def take(self, grant: Grant) -> Slot:
        """The slot of the grant that was just requested, for a caller that keeps to it itself. Nothing is left."""
        request = self._granted(grant)
        self._request = None
        # A slot counts from the request, so a reply that was read late makes the call late.
        return Slot(grant.permit, request.sent_at + grant.wait_us / 1e6, request.requested_at)

    def _granted(self, grant: Grant) -> _Request:
        if self._request is None or self._request.reply is not grant:
            raise ValueError("only the grant that was requested last has a slot")
        return self._request

    async def leave(self) -> None:
        """Give back what this caller may hold: a grant without its slot, a reservation, or what a lost reply granted.

        If Redis is away, one call's quota is lost, as when a process dies.
        """
        if self._request is not None:
            await uninterrupted(self._leave(self._request))

    async def _leave(self, request: _Request) -> None:
        self._request = None
        with suppress(RedisError):
            reply = request.reply if request.repeat is None else await request.repeat()
            if reply is not None and reply.charged is not None:
                await self._limiter.give_back(reply.charged)
