"""Paces polls: within the `polls` limits of the account for the whole fleet, and never thousands at once.

Tasks that were submitted together come due together. Their polls queue here, and one permit covers all that may leave
together. So Redis serves a few requests per second for any number of tasks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from aiolimiter import AsyncLimiter
from redis.exceptions import RedisError

from daemon.accounts.routes import Route
from daemon.broker.loops import until_answered
from daemon.telemetry.metrics import Metrics
from limiter import Grant, Later, Limiter, Quota, Recalls, Slot, Slots
from limiter.quota.limits import POLLS

# The polls that leave in one turn of the event loop, and the time before as many leave again. A poll takes about a
# millisecond, so a replica spends at most half of its time on polls.
TOGETHER = 25
APART_S = 0.05
# A poll that has not left by then does not delay the others: the provider may be unreachable.
LEAVES_IN_S = 1.0
# Take no slot further ahead than this: a replica that dies wastes the slots that it holds.
HORIZON_S = 1.0
# Look again so soon whether polls still wait, and under the same limits: no news of either comes here.
LONGEST_WAIT_S = 1.0

Left = Callable[[], None]
_Poll = asyncio.Future[None]  # done when the poll has left; cancelled if it never will


@dataclass(slots=True)
class _Line:
    """The waiting polls of one route, in order of arrival."""

    waiting: deque[asyncio.Future[_Poll]] = field(default_factory=deque)
    requester: asyncio.Task[None] | None = None  # requests the permits of the line while polls wait

    def length(self) -> int:
        """Count the waiting polls, without those of cancelled runs."""
        self.waiting = deque(turn for turn in self.waiting if not turn.done())
        return len(self.waiting)

    def let_leave(self, count: int) -> list[_Poll]:
        """Let the first `count` polls leave."""
        leaving: list[_Poll] = []
        while self.waiting and len(leaving) < count:
            turn = self.waiting.popleft()
            if not turn.done():
                leaving.append(asyncio.get_running_loop().create_future())
                turn.set_result(leaving[-1])
        return leaving


def _polls_of(route: Route) -> list[Quota]:
    """The quotas that limit the route's polls now: the quota book may replace those of the route."""
    return [polls for quota in route.quotas if (polls := quota.polls) is not None]


def _left(poll: _Poll) -> None:
    if not poll.done():
        poll.set_result(None)


class Pacer:
    """Paces the polls of one replica. `holder` is its name in the limiter.

    `recalls` need not listen to the bell: a stop of new calls does not stop polls.
    """

    def __init__(self, limiter: Limiter, metrics: Metrics, holder: str, recalls: Recalls) -> None:
        self._limiter = limiter
        self._metrics = metrics
        self._holder = holder
        self._recalls = recalls
        self._pace = AsyncLimiter(TOGETHER, APART_S)
        self._lines: dict[str, _Line] = {}
        self._requesters: set[asyncio.Task[None]] = set()  # also those that leave their slots

    async def turn(self, route: Route) -> Left:
        """Wait until one poll of the route may be sent; while Redis does not reply, no poll may.

        Send the poll at once, and call the result when it leaves.
        """
        line = self._lines.setdefault(route.name, _Line())
        turn: asyncio.Future[_Poll] = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        if line.requester is None:
            line.requester = asyncio.create_task(self._serve(route, line), name=f"polls {route.name}")
            self._requesters.add(line.requester)
            line.requester.add_done_callback(self._requesters.discard)
        try:
            return partial(_left, await turn)
        except asyncio.CancelledError:
            # The turn may have come together with the cancellation.
            if not turn.cancelled() and turn.exception() is None:
                turn.result().cancel()
            raise

    async def aclose(self) -> None:
        """Let no more polls leave."""
        requesters = list(self._requesters)
        for requester in requesters:
            requester.cancel()
        if requesters:
            await asyncio.wait(requesters)

    async def _serve(self, route: Route, line: _Line) -> None:
        slots = Slots(self._limiter, self._recalls, self._holder, f"polls:{route.name}")
        try:
            while count := line.length():
                quotas = _polls_of(route)
                count = min(count, TOGETHER, *(limit.most for quota in quotas for limit in quota.limits))
                await self._pace.acquire(count)
                if not quotas:
                    line.let_leave(count)
                elif (slot := await self._next_slot(slots, route, line, count, quotas)) is not None:
                    await self._use(slot, line.let_leave(count), quotas)
        except Exception as error:
            # Otherwise the waiting polls would wait for ever. A later run goes on with the task.
            for turn in line.waiting:
                if not turn.done():
                    turn.set_exception(error)
            line.waiting.clear()
        finally:
            line.requester = None
            await slots.leave()

    async def _next_slot(
        self, slots: Slots, route: Route, line: _Line, count: int, quotas: Sequence[Quota]
    ) -> Slot | None:
        """Wait for one slot that pays for `count` polls; None if no poll waits for it or the quotas were replaced."""

        async def request() -> Grant | Later:
            try:
                return await slots.request(quotas, {POLLS: count}, horizon_s=HORIZON_S)
            except RedisError:
                self._metrics.limiter_errors.inc()
                raise

        while line.length() and _polls_of(route) == quotas:
            reply = await until_answered("acquire", request)
            if isinstance(reply, Later):
                await self._recalls.wait(min(slots.retry_s(reply), LONGEST_WAIT_S))
            elif (slot := await slots.wait(reply)) is not None:
                return slot
        await slots.leave()
        return None

    async def _use(self, slot: Slot, leaving: list[_Poll], quotas: Sequence[Quota]) -> None:
        """Count the polls from the time when the last one left, if the guard does not cover that delay.

        A loop with thousands of coroutines and 25 new connections can take longer than a window's guard. No other poll
        leaves before these have left, so a slow replica sends fewer polls instead of late ones.
        """
        if leaving:
            await asyncio.wait(leaving, timeout=LEAVES_IN_S)
        if all(poll.cancelled() for poll in leaving):
            await until_answered("give_back", lambda: self._limiter.give_back(slot.permit))
        elif self._recalls.clock() - slot.at > min(quota.tolerance_s for quota in quotas):
            await until_answered("retime", lambda: self._limiter.retime(slot.permit, quotas, sent=True))
