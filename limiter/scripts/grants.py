"""Requests permits: the arguments of acquire.lua, and its replies as types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from redis.exceptions import RedisError

from limiter.permit import PPM, Bound, Grant, Later, Permit, Scale
from limiter.plan import Arg, Plan
from limiter.quota.limits import QuotaError
from limiter.quota.quota import Quota
from limiter.script import LuaScript, uninterrupted
from limiter.scripts.permits import Permits
from limiter.server import text_of

# The default costs: a call that makes one picture. `polls` are charged only to callers that name them.
ONE_IMAGE: Final[Mapping[str, int]] = MappingProxyType({"requests": 1, "images": 1})

# Runs a caller's own script that includes the decision (`include/decision.lua`). It gets the keys and arguments of
# acquire.lua, and the permit of a grant, without its times. It returns acquire.lua's reply, or [] without a request.
Step = Callable[[Sequence[str], Sequence[Arg], Permit], Awaitable[Any]]

_ACQUIRE: Final = LuaScript.load(Path(__file__).parent, "acquire")
_OTHER_DAY: Final = 2  # acquire.lua: the rows do not describe the server's day
_LONGEST_WAIT_S: Final = 366 * 86_400  # so that infinity is a number of µs


class NotRequested(Exception):  # noqa: N818 - an outcome, not a fault
    """The caller's step has requested no permit."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; a grant or reservation that it leads to gets its `grant_id`."""

    plan: Plan
    holder: str
    request_id: str
    grant_id: str
    max_wait_s: float
    reserves: bool = False
    more: bool = False
    ended: Sequence[Permit] = ()
    step: Step | None = None

    @property
    def permit(self) -> Permit:
        """The permit of a grant, without its times."""
        leased = self.plan.leased
        return Permit(
            self.request_id,
            self.holder,
            self.plan.names,
            self.plan.costs,
            tuple(leased),
            self.grant_id,
            tuple(leased.values()),
        )

    def granted(
        self,
        wait_us: int,
        granted_us: str,
        slot_us: str,
        grant_id: str,
        changes: str,
        left: str,
        full: str,
    ) -> Grant:
        """A reply as a grant."""
        permit = replace(
            self.permit,
            grant_id=grant_id,
            granted_us=int(granted_us),
            slot_us=int(slot_us),
            left={(quota, limit): int(rest) for quota, limit, rest in _threes(left)},
        )
        scales = (Scale(quota, int(old) / PPM, int(new) / PPM) for quota, old, new in _threes(changes))
        return Grant(permit, wait_us, tuple(scales), Bound.parse(full) if full else None)

    def denied(self, retry_us: int, bound: str, grant_id: str = "", slot_us: str = "0") -> Later:
        """A reply as a denial; with a grant id and a slot it has a reservation."""
        permit = Permit(
            self.request_id, self.holder, self.plan.names, self.plan.costs, (), grant_id, slot_us=int(slot_us)
        )
        return Later(retry_us, Bound.parse(bound), permit if grant_id else None)


class Grants(Permits):
    """The call that grants permits."""

    async def acquire(
        self,
        quotas: Sequence[Quota],
        *,
        costs: Mapping[str, int] = ONE_IMAGE,
        holder: str,
        request_id: str,
        max_wait_s: float,
        after: Later | None = None,
        more: bool = False,
        ended: Sequence[Permit] = (),
        step: Step | None = None,
    ) -> Grant | Later:
        """Request one call under all limits of all `quotas`: charges all of them at one slot, or none.

        `costs` are units; a unit that is not named costs nothing. `in_flight` is the weight of the lease (unnamed:
        1). For polls name `Quota.polls`: stops of new calls do not stop them. The slot is the earliest that suits all
        limits, even in a gap before later slots; one further away than `max_wait_s` is denied. After a grant sleep
        `wait_us` from the return of this call, by a monotonic clock, then send. A cancelled caller holds no grant.

        If a reply is lost, request again with the same `request_id`: it has the same reply and is charged once. That
        holds until half a lease after its slot, or until its release or give_back. Use a new id for each attempt.

        After a denial, pass it as `after` with the same `request_id`. A second denial for a rate makes a reservation,
        which no other call overtakes. A pause or a missing place in flight makes none, since their waiters are noted
        separately. Without `after`, a call whose `max_wait_s` is shorter than the backlog competes with the others
        by chance, and a call of many units may starve.

        The calls of the `ended` permits are over: they are released first, so this call can have their places. With
        `more` the holder has a next call too. If this one gets the last place, the grant's `full` is the denial of the
        next one, and the holder waits for the bell. `leave_line` ends such a wait, and the one after a denial.

        `step` runs instead of acquire.lua, so that the caller's own work and the decision are one step.

        Errors: QuotaError, at once, for a cost that can never be granted; ValueError for a `max_wait_s` below 0 and a
        `holder` with spaces; NotRequested if the `step` has requested nothing.
        """
        if not quotas:
            return Grant(Permit(request_id, holder, (), costs, (), ""), 0)
        if not max_wait_s >= 0:
            raise ValueError(f"max_wait_s must be a number of seconds from 0, not {max_wait_s}")
        if holder.split() != [holder]:
            raise ValueError(f"a holder is one word without spaces, not {holder!r}")
        request = Request(
            self._plan(quotas, costs),
            holder,
            request_id,
            next(self._grant_ids),
            max_wait_s,
            reserves=after is not None,
            more=more,
            ended=ended,
            step=step,
        )
        return await uninterrupted(self._request(request), undo=self._undo)

    async def _request(self, request: Request) -> Grant | Later:
        """One run of acquire.lua. Errors: NotRequested; QuotaError if the server's clock moves between days."""
        plan = request.plan
        record = self._keys.of(plan.names[0], "permit", request.request_id)
        keys = [plan.keys[0], record, *plan.keys[2:]]
        ended = self._ended(request.ended, keys)
        for _ in range(2):
            args = (
                self._now_us(),
                round(min(request.max_wait_s, _LONGEST_WAIT_S) * 1e6),
                self._lease_us,
                request.grant_id,
                request.request_id,
                request.holder,
                self._epoch,
                int(request.reserves),
                int(request.more),
                self._keys.bell,
                len(ended) // 6,
                *ended,
                *self._rows(plan),
            )
            if request.step is None:
                reply = await _ACQUIRE(self._client, keys, args)
            else:
                reply = await request.step(keys, args, request.permit)
            if not reply:
                raise NotRequested
            granted, amount_us, *words = reply
            if granted != _OTHER_DAY:
                break
            # This process's clock is days away from the server's, which alone decides.
            self._set_wall_us(int(amount_us))
        else:
            raise QuotaError("the server's clock moves between days; calendar days cannot be counted")
        epoch, *words = map(text_of, words)
        self._epoch = epoch or self._epoch
        return (request.granted if granted else request.denied)(int(amount_us), *words)

    def _ended(self, permits: Sequence[Permit], keys: list[str]) -> list[str | int]:
        """The arguments that end the leases of `permits`; adds their keys to `keys`."""
        args: list[str | int] = []
        for permit in permits:
            for quota, weight in permit.leases:
                first = len(keys) + 1
                keys += [
                    self._record(permit),
                    self._keys.of(quota, "leases"),
                    self._keys.of(quota, "waiting"),
                ]
                args += [first, first + 1, first + 2, permit.grant_id, permit.owner, weight]
        return args

    async def _undo(self, reply: Grant | Later) -> None:
        # If Redis is away now, the lease ends by itself; the cancelled caller must see only its cancellation.
        if reply.charged is not None:
            with suppress(RedisError):
                await self.give_back(reply.charged)


def _threes(text: str) -> Iterator[tuple[str, str, str]]:
    words = iter(text.split())
    return zip(words, words, words, strict=True)
