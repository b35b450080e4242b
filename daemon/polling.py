"""When a poll may be sent: under the `polls` limits of its account for the whole fleet, and never thousands at once.

Tasks that were submitted together come due together. Here they stand in line, and a permit is asked for as many of
them at a time as may leave together, so Redis is asked a few times a second, however many tasks there are.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aiolimiter import AsyncLimiter
from redis.exceptions import RedisError

from daemon.loops import pause_s, until_answered
from daemon.metrics import Metrics
from daemon.routes import Route
from limiter import Grant, Later, Limiter, Quota
from limiter.limits import POLLS

# Polls that leave in one turn of the event loop, and the time before as many leave again: a poll is about a
# millisecond of work, so a replica is busy with polls half of its time at most.
TOGETHER = 25
APART_S = 0.05
# A slot further away is asked for again: what was reserved is lost to the fleet when this replica dies.
HORIZON_S = 1.0


@dataclass(slots=True)
class _Line:
    """The polls of one route that wait for their turn, in the order in which they came."""

    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    caller: asyncio.Task[None] | None = None

    def length(self) -> int:
        """How many still wait; those whose run was cancelled have left the line."""
        self.waiting = deque(turn for turn in self.waiting if not turn.done())
        return len(self.waiting)

    def call(self, count: int) -> None:
        """Let the first `count` go."""
        while self.waiting and count:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1


class Pacer:
    """One a replica. `holder` is its name for the limiter."""

    def __init__(
        self,
        limiter: Limiter,
        metrics: Metrics,
        holder: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self._limiter = limiter
        self._metrics = metrics
        self._holder = holder
        self._pace = AsyncLimiter(TOGETHER, APART_S)
        self._lines: dict[str, _Line] = {}
        self._requests = itertools.count()

    async def turn(self, route: Route) -> None:
        """Return when one poll of the route may be sent, at once; while Redis does not answer, none may."""
        line = self._lines.setdefault(route.name, _Line())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        if line.caller is None:
            line.caller = asyncio.create_task(self._call(route, line), name=f"polls {route.name}")
        await turn

    async def aclose(self) -> None:
        """Give nobody a turn any more."""
        callers = [line.caller for line in self._lines.values() if line.caller is not None]
        for caller in callers:
            caller.cancel()
        if callers:
            await asyncio.wait(callers)

    async def _call(self, route: Route, line: _Line) -> None:
        try:
            while count := line.length():
                quotas = [polls for quota in route.quotas if (polls := quota.polls) is not None]
                count = min(count, TOGETHER, *(limit.most for quota in quotas for limit in quota.limits))
                await self._pace.acquire(count)
                if quotas:
                    await self._slot_for(count, quotas, route)
                line.call(count)
        except Exception as error:
            # Whoever waits would wait for ever; a run that fails so goes on with its task later.
            for turn in line.waiting:
                if not turn.done():
                    turn.set_exception(error)
            line.waiting.clear()
        finally:
            line.caller = None

    async def _slot_for(self, count: int, quotas: Sequence[Quota], route: Route) -> None:
        """Return when `count` polls may be sent: all of them are charged at one slot, which has come."""
        while True:
            answer = await self._answer(count, quotas, route)
            if isinstance(answer, Grant):
                break
            await self._sleep(answer.retry_us / 1e6)
        slot_at = time.monotonic() + answer.wait_us / 1e6
        await self._sleep(answer.wait_us / 1e6)
        if time.monotonic() - slot_at > min(quota.tolerance_s for quota in quotas):
            permit = answer.permit
            await until_answered("sent_late", lambda: self._limiter.sent_late(permit))

    async def _answer(self, count: int, quotas: Sequence[Quota], route: Route) -> Grant | Later:
        request_id = f"{self._holder}:polls:{route.name}:{next(self._requests)}"
        for failures in itertools.count():
            try:
                return await self._limiter.acquire(
                    quotas,
                    costs={POLLS: count},
                    holder=self._holder,
                    request_id=request_id,
                    max_wait_s=HORIZON_S,
                )
            except RedisError:
                # Asked again, it is charged once; until there is an answer nothing is sent.
                self._metrics.limiter_errors.inc()
                await self._sleep(pause_s(failures))
        raise AssertionError("the questions have no end")
