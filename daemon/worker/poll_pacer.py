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
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from aiolimiter import AsyncLimiter
from redis.exceptions import RedisError

from daemon.accounts.routes import Route
from daemon.broker.backoff import pause_s
from daemon.broker.loops import until_answered
from daemon.telemetry.metrics import Metrics
from limiter import Grant, Later, Limiter, Permit, Quota
from limiter.quota.limits import POLLS

# Polls that leave in one turn of the event loop, and the time before as many leave again: a poll is about a
# millisecond of work, so a replica is busy with polls half of its time at most.
TOGETHER = 25
APART_S = 0.05
# A poll that has not left by then never will: its run was cancelled, or its way to the provider is shut.
LEAVES_IN_S = 1.0
# A slot further away is asked for again: what was reserved is lost to the fleet when this replica dies.
HORIZON_S = 1.0


Left = Callable[[], None]


class _Together:
    """Polls that were let go at one moment, until the last of them has left."""

    def __init__(self) -> None:
        self._staying: set[object] = set()
        self._gone = asyncio.Event()

    def one(self) -> Left:
        """One poll more; to be called when it leaves, and harmless after that."""
        poll = object()
        self._staying.add(poll)

        def left() -> None:
            self._staying.discard(poll)
            if not self._staying:
                self._gone.set()

        return left

    async def gone(self) -> None:
        """Return when all have left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVES_IN_S):
                await self._gone.wait()


class _Slot(NamedTuple):
    """A permit, and the monotonic time from which it holds."""

    permit: Permit
    at: float


@dataclass(slots=True)
class _Line:
    """The polls of one route that wait for their turn, in the order in which they came."""

    waiting: deque[asyncio.Future[Left]] = field(default_factory=deque)
    caller: asyncio.Task[None] | None = None

    def length(self) -> int:
        """How many still wait; those whose run was cancelled have left the line."""
        self.waiting = deque(turn for turn in self.waiting if not turn.done())
        return len(self.waiting)

    def call(self, count: int) -> _Together:
        """Let the first `count` go."""
        together = _Together()
        while self.waiting and count:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(together.one())
                count -= 1
        return together


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

    async def turn(self, route: Route) -> Left:
        """Return when one poll of the route may be sent, at once; while Redis does not answer, none may.

        What is returned is to be called when the poll leaves.
        """
        line = self._lines.setdefault(route.name, _Line())
        turn: asyncio.Future[Left] = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        if line.caller is None:
            line.caller = asyncio.create_task(self._call(route, line), name=f"polls {route.name}")
        return await turn

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
                    slot = await self._slot_for(count, quotas, route)
                    await self._left_at(slot, line.call(count), quotas)
                else:
                    line.call(count)
        except Exception as error:
            # Whoever waits would wait for ever; a run that fails so goes on with its task later.
            for turn in line.waiting:
                if not turn.done():
                    turn.set_exception(error)
            line.waiting.clear()
        finally:
            line.caller = None

    async def _slot_for(self, count: int, quotas: Sequence[Quota], route: Route) -> _Slot:
        """Return when `count` polls may be sent: all of them are charged at one slot, which has come."""
        request_id = f"{self._holder}:polls:{route.name}:{next(self._requests)}"
        told: Later | None = None
        charged: Permit | None = None
        try:
            while True:
                asked_at = time.monotonic()
                answer = await self._answer(count, quotas, request_id, told)
                if isinstance(answer, Grant):
                    break
                told, charged = answer, answer.turn
                await self._sleep(answer.retry_us / 1e6)
            charged = answer.permit
            await self._sleep(answer.wait_us / 1e6)
        except asyncio.CancelledError:
            if charged is not None:
                with suppress(RedisError):
                    await self._limiter.give_back(charged)
            raise
        # Counted from the question and not from its answer, which a busy loop may have read long after it was given.
        return _Slot(answer.permit, asked_at + answer.wait_us / 1e6)

    async def _left_at(self, slot: _Slot, together: _Together, quotas: Sequence[Quota]) -> None:
        """Let the polls be counted from when the last of them left, where that was noticeably after their slot.

        A loop with thousands of coroutines, and 25 new connections, take longer than the guard of a window. Until they
        have left no others are let go, so a replica that is too slow polls less instead of later.
        """
        await together.gone()
        if time.monotonic() - slot.at > min(quota.tolerance_s for quota in quotas):
            await until_answered("sent_late", lambda: self._limiter.sent_late(slot.permit, quotas))

    async def _answer(
        self, count: int, quotas: Sequence[Quota], request_id: str, told: Later | None
    ) -> Grant | Later:
        for failures in itertools.count():
            try:
                return await self._limiter.acquire(
                    quotas,
                    costs={POLLS: count},
                    holder=self._holder,
                    request_id=request_id,
                    max_wait_s=HORIZON_S,
                    after=told,
                )
            except RedisError:
                # Asked again, it is charged once; until there is an answer nothing is sent.
                self._metrics.limiter_errors.inc()
                await self._sleep(pause_s(failures))
        raise AssertionError("the questions have no end")
