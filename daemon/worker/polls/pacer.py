"""Paces polls: within the `polls` limits of the account for the whole fleet, and never thousands at once.

Tasks that were submitted together come due together. Their polls queue here, and one permit covers all that may leave
together. So Redis serves a few requests per second for any number of tasks. Where polls are scarce, those of the most
worth leave first: in order of arrival, they would be spent on tasks that have hardly begun.

A poll buys nothing, and its task may have made a picture that is paid. So while Redis does not answer, polls go on at
a part of the limits that were known last.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nlargest
from operator import attrgetter
from typing import NamedTuple

from aiolimiter import AsyncLimiter
from redis.exceptions import RedisError

from daemon.accounts.routes import Route
from daemon.broker.loops import PATIENCE_S, Reports, until_answered
from daemon.telemetry.metrics import Metrics
from limiter import Grant, InFlight, Later, Limiter, Permit, Quota, Recalls, Slot, Slots
from limiter.quota.limits import POLLS

# The polls that leave in one turn of the event loop, and the time before as many leave again. A poll takes about a
# millisecond, so a replica spends at most half of its time on polls.
TOGETHER = 25
APART_S = 0.05
# How many waiting polls one turn weighs anew. A worth takes a microsecond or two, and thousands may wait. A whole line
# is weighed before a twentieth of it has left.
WEIGHED = 500
# A poll that has not left by then does not delay the others: the provider may be unreachable.
LEAVES_IN_S = 1.0
# Take no slot further ahead than this: a replica that dies wastes the slots that it holds.
HORIZON_S = 1.0
# A reply of the limiter that the provider has not paused the polls of an account holds so long, or until the bell has
# news. So an account without limits on polls costs no request a poll.
KNOWN_S = 5.0
# While Redis is away, a replica uses this part of the limits on polls: it does not know how many others there are.
PART_ALONE = 1 / 4
# It goes on alone after so many looks for a reply, half a second each: a connection that was cut is back before.
LOOKS_ALONE = 6
# A denial is kept so long while Redis is away: the address of a picture may live no longer than an hour.
HELD_MOST_S = 60.0
# Look again so soon whether polls still wait, and under the same limits: no news of either comes here.
LONGEST_WAIT_S = 1.0

Permits = Mapping[str, Permit]  # by quota
Worth = Callable[[], float]  # of a poll that would leave now
_Poll = asyncio.Future[None]  # done when the poll has left; cancelled if it never will


@dataclass(slots=True, eq=False)
class _Waiting:
    turn: asyncio.Future[tuple[_Poll, Permits]]
    worth: Worth
    weight: float  # its worth when it was weighed last


class Turn(NamedTuple):
    """The right to send one poll now. Call `left` when it leaves. `permits` are those under which it leaves."""

    left: Callable[[], None]
    permits: Permits


class _Known(NamedTuple):
    permit: Permit
    requested_at: float
    alone: bool  # it was for the one poll that shows whether a pause was long enough


@dataclass(slots=True)
class _Line:
    """The waiting polls of one route, in order of arrival."""

    waiting: list[_Waiting] = field(default_factory=list)
    requester: asyncio.Task[None] | None = None  # requests the permits of the line while polls wait
    weigh_from: int = 0  # the number of the poll that is weighed next
    held_until: float = 0.0  # by the clock of recalls; the limiter's last denial

    def still(self) -> list[_Waiting]:
        """The polls that still wait, without those of cancelled runs."""
        self.waiting = [poll for poll in self.waiting if not poll.turn.done()]
        return self.waiting

    def let_leave(self, count: int, permits: Permits) -> list[_Poll]:
        """Let the `count` polls of the most worth leave; of equals, the first."""
        leaving: list[_Poll] = []
        for waiting in nlargest(count, self._weighed(count), key=attrgetter("weight")):
            poll: _Poll = asyncio.get_running_loop().create_future()
            leaving.append(poll)
            waiting.turn.set_result((poll, permits))
        return leaving

    def _weighed(self, count: int) -> list[_Waiting]:
        """The polls that still wait, of which the next part is weighed anew; `count` of them leave then."""
        waiting = self.still()
        first = min(self.weigh_from, max(0, len(waiting) - WEIGHED))
        end = first + WEIGHED
        for poll in waiting[first:end]:
            poll.weight = poll.worth()
        self.weigh_from = end - count if end < len(waiting) else 0
        return waiting


def _left(poll: _Poll) -> None:
    if not poll.done():
        poll.set_result(None)


class Pacer:
    """Paces the polls of one replica. `holder` is its name in the limiter."""

    def __init__(self, limiter: Limiter, metrics: Metrics, holder: str, recalls: Recalls) -> None:
        self._limiter = limiter
        self._metrics = metrics
        self._holder = holder
        self._recalls = recalls
        self._pace = AsyncLimiter(TOGETHER, APART_S)
        self._lines: dict[str, _Line] = {}
        self._known: dict[str, _Known] = {}  # the newest permit of each quota
        self._requesters: set[asyncio.Task[None]] = set()  # also those that leave their slots
        self._reports = Reports()

    async def turn(self, route: Route, worth: Worth = lambda: 0.0) -> Turn:
        """Wait until one poll of the route may be sent.

        Polls of more `worth` leave first. Send the poll at once.
        """
        line = self._lines.setdefault(route.name, _Line())
        turn: asyncio.Future[tuple[_Poll, Permits]] = asyncio.get_running_loop().create_future()
        line.waiting.append(_Waiting(turn, worth, worth()))
        if line.requester is None:
            line.requester = asyncio.create_task(self._serve(route, line), name=f"polls {route.name}")
            self._requesters.add(line.requester)
            line.requester.add_done_callback(self._requesters.discard)
        try:
            poll, permits = await turn
            return Turn(partial(_left, poll), permits)
        except asyncio.CancelledError:
            # The turn may have come together with the cancellation.
            if not turn.cancelled() and turn.exception() is None:
                turn.result()[0].cancel()
            raise

    async def aclose(self) -> None:
        """Let no more polls leave."""
        requesters = list(self._requesters)
        for requester in requesters:
            requester.cancel()
        if requesters:
            await asyncio.wait(requesters)
        await self._reports.aclose()

    async def _serve(self, route: Route, line: _Line) -> None:
        slots = Slots(self._limiter, self._recalls, self._holder, f"polls:{route.name}")
        try:
            while count := len(line.still()):
                quotas = self._asked(route)
                alone = any(map(self._has_news, quotas))
                most = 1 if alone else TOGETHER
                count = min(count, most, *(limit.most for quota in quotas for limit in quota.limits))
                await self._pace.acquire(count)
                if not quotas:
                    line.let_leave(count, self._permits(route))
                elif (slot := await self._next_slot(slots, route, line, count, quotas)) is not None:
                    known = _Known(slot.permit, slot.requested_at, alone)
                    self._known.update((quota.name, known) for quota in quotas)
                    await self._use(slot, line.let_leave(count, self._permits(route)), quotas)
        except Exception as error:
            # Otherwise the waiting polls would wait for ever. A later run goes on with the task.
            for poll in line.still():
                poll.turn.set_exception(error)
            line.waiting.clear()
        finally:
            line.requester = None
            await slots.leave()

    def _asked(self, route: Route) -> list[Quota]:
        """The quotas to request before a poll: those with limits, and those that the provider may have paused.

        The quota book may replace those of the route at any time.
        """
        polls = [quota.polls for quota in route.quotas]
        return [quota for quota in polls if quota.limits or self._may_be_paused(quota)]

    def _may_be_paused(self, quota: Quota) -> bool:
        known = self._known.get(quota.name)
        if known is None or known.alone or self._recalls.clock() - known.requested_at > KNOWN_S:
            return True
        return self._has_news(quota)

    def _has_news(self, quota: Quota) -> bool:
        """Whether the provider may have paused the polls since the newest permit: then one poll tries it first."""
        known = self._known.get(quota.name)
        return known is not None and self._recalls.has_news(quota.name, known.requested_at)

    def _permits(self, route: Route) -> Permits:
        """The permits under which polls of the route leave now."""
        names = [quota.polls.name for quota in route.quotas]
        return {name: self._known[name].permit for name in names if name in self._known}

    async def _next_slot(
        self, slots: Slots, route: Route, line: _Line, count: int, quotas: Sequence[Quota]
    ) -> Slot | None:
        """Wait for one slot that pays for `count` polls.

        None if no poll waits for it, the quotas were replaced, or news allows only one poll now.
        """

        async def request() -> Grant | Later:
            try:
                return await slots.request(quotas, {POLLS: count}, horizon_s=HORIZON_S)
            except RedisError:
                self._metrics.limiter_errors.inc()
                raise

        while line.still() and self._asked(route) == quotas:
            if count > 1 and any(map(self._has_news, quotas)):
                break
            reply = await self._reply(request, route, line, quotas)
            if isinstance(reply, Later):
                retry_s = slots.retry_s(reply)
                line.held_until = self._recalls.clock() + min(retry_s, HELD_MOST_S)
                await self._recalls.wait(min(retry_s, LONGEST_WAIT_S))
            elif (slot := await self._slot(slots, reply)) is not None:
                return slot
        await slots.leave()
        return None

    async def _slot(self, slots: Slots, grant: Grant) -> Slot | None:
        try:
            return await slots.wait(grant)
        except RedisError:
            # The slot was late, and Redis did not count it anew. The next request gives it back.
            self._metrics.limiter_errors.inc()
            return None

    async def _reply(
        self,
        request: Callable[[], Awaitable[Grant | Later]],
        route: Route,
        line: _Line,
        quotas: Sequence[Quota],
    ) -> Grant | Later:
        """The limiter's reply. Until it comes, polls leave without it, unless the last one was a denial."""
        asked = asyncio.create_task(until_answered("acquire", request))
        gap_s = _gap_s(quotas) / PART_ALONE
        most = 1 if gap_s or any(map(self._has_news, quotas)) else TOGETHER
        wait_s, looks = PATIENCE_S / 2, 0
        enough = max(LOOKS_ALONE, math.ceil(gap_s / wait_s))
        try:
            while not (await asyncio.wait([asked], timeout=wait_s))[0]:
                looks += 1
                # Several looks, since a process that stood still finds a whole wait over, and its reply not read yet.
                if looks < enough:
                    continue
                if self._recalls.clock() >= line.held_until:
                    line.let_leave(most, self._permits(route))
                wait_s = max(APART_S, gap_s) if gap_s else PATIENCE_S
            return asked.result()
        finally:
            if not asked.done():
                asked.cancel()
                await asyncio.wait([asked])

    async def _use(self, slot: Slot, leaving: list[_Poll], quotas: Sequence[Quota]) -> None:
        """Count the polls from the time when the last one left, if the guard does not cover that delay.

        A loop with thousands of coroutines and 25 new connections can take longer than a window's guard. No other poll
        leaves before these have left, so a slow replica sends fewer polls instead of late ones.
        """
        if leaving:
            await asyncio.wait(leaving, timeout=LEAVES_IN_S)
        if all(poll.cancelled() for poll in leaving):
            back = until_answered("give_back", lambda: self._limiter.give_back(slot.permit))
            await self._reports.send("unused polls", back)
        elif self._recalls.clock() - slot.at > min(quota.tolerance_s for quota in quotas):
            late = until_answered("retime", lambda: self._limiter.retime(slot.permit, quotas, sent=True))
            await self._reports.send("late polls", late)


def _gap_s(quotas: Sequence[Quota]) -> float:
    """Seconds from one poll to the next at the full rate of the limits; 0 without limits."""
    limits = [limit for quota in quotas for limit in quota.limits if not isinstance(limit, InFlight)]
    return max((limit.period_us / limit.count / 1e6 for limit in limits), default=0.0)
