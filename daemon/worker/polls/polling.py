"""Polls a provider's task until it has ended. The task may be paid for already, so nothing here submits one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from daemon.accounts.routes import Route
from daemon.broker.loops import Reports
from daemon.worker.polls.durations import UNKNOWN, Durations
from daemon.worker.polls.pacer import Permits, Turn, Worth
from daemon.worker.polls.rhythm import EASY, SHORTEST_WAIT_S, URGENT, PollRule, Seen
from daemon.worker.retry_policy import Then, after_poll, blames_account
from daemon.worker.run import Run, TimeLimit, Unfinished
from pixmill.contract import Job
from providers.base import CallHooks, Generated, Pending, Submitted
from providers.errors import ProviderError

# A single reply may come from a server that does not know the task yet; trusting it would buy the picture again.
LOST_POLLS = 3
# A wait of hours between polls could outlast the address of the finished picture.
LONGEST_RETRY_AFTER_S = 60.0
LAST_POLL_S = 10.0  # for the last poll, which leaves at the time limit


class _Watch:
    """The polls of one task, by its age in seconds. `plan_s` are the waits that its provider advises.

    The waits of a `resumed` task are no longer than those: its age is by the clocks of two machines.
    """

    def __init__(
        self,
        rule: Callable[[], PollRule],
        plan_s: Iterator[float],
        *,
        age_s: float = 0.0,
        resumed: bool = False,
        price: Callable[[], float] = lambda: EASY,
        clock: Callable[[], float],
    ) -> None:
        self._rule = rule
        self._plan_s = plan_s
        self._resumed = resumed
        self._price = price
        self._price_now = EASY
        self._clock = clock
        self._accepted_at = clock() - age_s
        self._refused = False  # the last poll was, or its reply was lost
        self._sent_s, self._ran_s = 0.0, 0.0

    def waits_s(self, first_s: float | None = None) -> Iterator[float]:
        """The waits before each poll; `first_s` replaces the first one."""
        if first_s is not None:
            self._price_now = self._price()
            yield first_s
        while True:
            self._price_now = self._price()
            # The receipt has taken a moment already, but the first poll is planned from the beginning.
            age_s = self._age_s() if self._sent_s else 0.0
            wait_s = max(SHORTEST_WAIT_S, self._rule().next_s(age_s, self._price_now) - self._age_s())
            if self._refused:
                wait_s = max(wait_s, next(self._plan_s))
            elif self._resumed:
                wait_s = min(wait_s, next(self._plan_s))
            yield wait_s

    def worth(self) -> float:
        """The worth of a poll now: the place time that is expected to be lost without it (s), by the price of a poll.

        The price is that of the present wait. A refused poll counts like one that found the task running: a task whose
        polls are refused again and again must not keep those of the others back.
        """
        return self._rule().lost_s(self._sent_s, self._age_s()) / self._price_now

    def note_sent(self) -> None:
        """A poll leaves now."""
        self._sent_s = self._age_s()

    def note_reply(self, *, refused: bool) -> None:
        """The last poll was refused, or has found the task running."""
        self._refused = refused
        if not refused:
            self._ran_s = self._sent_s

    def seen(self) -> Seen:
        """The end that the last poll has found."""
        return Seen(self._ran_s, self._age_s())

    def _age_s(self) -> float:
        return self._clock() - self._accepted_at


class Polling:
    """Waits for tasks.

    `turn` waits until a poll of the route may be sent; it prefers polls of more worth. `refused` pauses the polls of
    the account, for the given time at most.
    `is_awaited` says whether somebody waits for the end of the run: for its picture, or for its place.
    `draw` returns a random number (0..1) that spreads the polls of many tasks.
    """

    def __init__(
        self,
        turn: Callable[[Route, Worth], Awaitable[Turn]],
        refused: Callable[[ProviderError, Route, Permits, float], Coroutine[Any, Any, None]],
        durations: Durations,
        is_awaited: Callable[[Run, Job], bool],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._turn = turn
        self._refused = refused
        self._reports = Reports()
        self._durations = durations
        self._is_awaited = is_awaited
        self._sleep = sleep
        self.clock = clock
        self._draw = draw

    async def ended(
        self,
        run: Run,
        job: Job,
        task: Submitted,
        limit: TimeLimit,
        *,
        accepted_at: float | None,
        is_over: Callable[[], Awaitable[None]],
    ) -> Generated | None:
        """Poll until the task has ended, and return it; None when the provider accepted a cancel.

        `accepted_at`, by `clock`, is when the provider accepted the task; None for a task of an earlier run. `is_over`
        is awaited before anything else once the task has ended, unless it failed by a fault of the account. Raises
        ProviderError if the task failed, or has not ended at its last poll, at the time limit.
        """
        await self._durations.read(run.route, job)
        watch = _Watch(
            self._durations.rule(run.route, job),
            self._plan_s(run.route),
            age_s=_age_s(task) if accepted_at is None else self.clock() - accepted_at,
            resumed=accepted_at is None,
            price=lambda: URGENT if self._is_awaited(run, job) else EASY,
            clock=self.clock,
        )
        # The task may have ended long ago, so poll soon. A restart takes many tasks over, so spread their polls.
        first_s = self._draw() * next(self._plan_s(run.route)) if accepted_at is None else None
        seen: Seen | None = None
        try:
            ended = await self._until_ended(run.route, task, limit, watch, first_s, run.cancel_requested)
            if ended is not None:
                seen = watch.seen()
                await is_over()
        except ProviderError as error:
            # A task that failed has freed its place too.
            if not isinstance(error, Unfinished) and after_poll(error) is not Then.LOST:
                seen = watch.seen()
                if not blames_account(error):
                    await is_over()
            raise
        finally:
            # Only a run that has seen its task begin knows how long it took.
            if seen is not None and accepted_at is not None:
                await run.beside.begin(partial(self._durations.learn, run.route, job, seen))
        return ended

    async def again(self, route: Route, task: Submitted, limit: TimeLimit) -> Generated | None:
        """Poll a task that has ended, at once, for its new addresses; None if it has failed since.

        No cancel is passed on: the picture is made and paid for, so it is kept.
        """
        watch = _Watch(
            lambda: UNKNOWN, self._plan_s(route), age_s=_age_s(task), resumed=True, clock=self.clock
        )
        try:
            return await self._until_ended(route, task, limit, watch, 0.0, asyncio.Event())
        except Unfinished:
            raise
        except ProviderError:
            return None

    def _plan_s(self, route: Route) -> Iterator[float]:
        return route.provider.capabilities(route.model).poll.waits_s(self._draw)

    async def _until_ended(
        self,
        route: Route,
        task: Submitted,
        limit: TimeLimit,
        watch: _Watch,
        first_s: float | None,
        cancel_requested: asyncio.Event,
    ) -> Generated | None:
        """Poll until the task has ended; the provider may demand longer waits, up to LONGEST_RETRY_AFTER_S."""
        retry_after_s, lost = 0.0, 0
        refused: ProviderError | None = None
        try:
            async with asyncio.timeout(limit.left_s() + LAST_POLL_S):
                for wait_s in watch.waits_s(first_s):
                    wait_s, left_s = max(wait_s, min(retry_after_s, LONGEST_RETRY_AFTER_S)), limit.left_s()
                    await self._sleep(min(wait_s, left_s))
                    if cancel_requested.is_set() and await route.provider.cancel(task):
                        return None
                    answer = await self._answer(route, task, watch)
                    if isinstance(answer, Generated):
                        return answer
                    refused = answer if isinstance(answer, ProviderError) else None
                    watch.note_reply(refused=refused is not None)
                    lost = lost + 1 if refused is not None and after_poll(refused) is Then.LOST else 0
                    if refused is not None and lost == LOST_POLLS:
                        raise refused
                    if wait_s >= left_s:
                        # That was the last poll, at the time limit.
                        break
                    retry_after_s = answer.retry_after_s or 0.0
        except TimeoutError:
            refused = None
        raise limit.unfinished(refused) from refused

    async def _answer(
        self, route: Route, task: Submitted, watch: _Watch
    ) -> Pending | Generated | ProviderError:
        """Return the reply to one poll, or its error if the poll was refused or the task is unknown."""
        left, permits = await self._turn(route, watch.worth)
        watch.note_sent()  # for a provider that does not say when the poll leaves

        async def leaves(_rtt_s: float | None) -> None:
            watch.note_sent()
            left()

        try:
            return await route.provider.poll(task, hooks=CallHooks(before_send=leaves))
        except ProviderError as error:
            then = after_poll(error)
            if then not in (Then.REPEAT, Then.PAUSE, Then.LOST):
                raise
            if then is Then.PAUSE:
                pause = self._refused(error, route, permits, LONGEST_RETRY_AFTER_S)
                await self._reports.send("polls refused", pause)
            return error
        finally:
            left()


def _age_s(task: Submitted) -> float:
    """The age of a task of an earlier run, by the clocks of two machines; 0 for a receipt without a date."""
    if task.submitted_at is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - task.submitted_at).total_seconds())
