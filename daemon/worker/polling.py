"""Polls a provider's task in the provider's rhythm until it has ended, and downloads its picture.

The task may be paid for already, so this module never submits one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain

import structlog
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from daemon.accounts.routes import Route
from daemon.worker.retry_policy import Then, after_download, after_poll
from daemon.worker.run import Run, TimeLimit, Unfinished
from providers.base import CallHooks, Generated, Pending, Picture, Submitted
from providers.errors import ErrorKind, ProviderError

log = structlog.get_logger(__name__)

FETCH_TRIES = 5  # of one address, within about 10 s; then the task may give another one
ONLY_ADDRESS_TRIES = 10  # of the address of a picture without a task, within about a minute
# A single reply may come from a server that does not know the task yet; trusting it would buy the picture again.
LOST_POLLS = 3
LIFE_S = 3600.0  # of a picture's address, if its provider documents none; as with most that do
# A wait of hours between polls could outlast the address of the finished picture.
LONGEST_RETRY_AFTER_S = 60.0
LAST_POLL_S = 10.0  # for the last poll, which leaves at the time limit


class Polling:
    """Waits for tasks and fetches pictures.

    `turn` waits until a poll of the route may be sent, and returns a callable for the moment when the poll leaves.
    `draw` returns a random number (0..1) that spreads the polls of many tasks.
    """

    def __init__(
        self,
        turn: Callable[[Route], Awaitable[Callable[[], None]]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._turn = turn
        self._sleep = sleep
        self._draw = draw

    async def ended(self, run: Run, task: Submitted, limit: TimeLimit, *, resumed: bool) -> Generated | None:
        """Poll until the task has ended, and return it; None when the provider accepted a cancel.

        Raises ProviderError if the task failed, or has not ended at its last poll, at the time limit.
        """
        waits_s = self._waits_s(run.route)
        if resumed:
            # The task may have ended long ago, so poll soon. A restart takes many tasks over, so spread their polls.
            soon_s = self._draw() * next(waits_s)
            waits_s = chain((soon_s,), waits_s)
        return await self._until_ended(run.route, task, limit, waits_s, run.cancel_requested)

    async def fetch(self, run: Run, generated: Generated, limit: TimeLimit) -> bytes:
        """Return the bytes of the one picture. It is paid for, so every free way is tried.

        An address may exist before its picture does (403, 404, 410). So it is tried again while the result is younger
        than the lifetime of its addresses; then the task is polled once for another address. Raises `result_expired`
        when the result is older, or the task gives no address any more: the job's policy then decides whether to buy
        the picture again. Raises `result_download` for a picture that should still exist.
        """
        route, task, since = run.route, run.submitted, _made_after(run)
        lives_s = route.provider.capabilities(route.model).url_ttl_s or LIFE_S

        def young() -> bool:
            return (datetime.now(UTC) - since).total_seconds() < lives_s

        tries = FETCH_TRIES if task is not None else ONLY_ADDRESS_TRIES
        found = await self._found(route, only_picture(generated), young, tries)
        if isinstance(found, ProviderError) and task is not None:
            log.info("the picture is not at its address; polling for another one", task=task.task_id)
            again = await self._polled_again(route, task, limit, found)
            found = await self._found(route, only_picture(again), young, tries)
        if not isinstance(found, ProviderError):
            return found
        if young():
            raise ProviderError(ErrorKind.RESULT_DOWNLOAD, found.message, http_status=found.http_status)
        raise found

    async def _found(
        self, route: Route, picture: Picture, young: Callable[[], bool], tries: int
    ) -> bytes | ProviderError:
        """Return the picture's bytes, or the error if its address has no picture."""

        def may_come(error: BaseException) -> bool:
            then = after_download(error) if isinstance(error, ProviderError) else None
            return then is Then.REPEAT or (then is Then.REFRESH and young())

        try:
            return await AsyncRetrying(
                stop=stop_after_attempt(tries),
                wait=wait_exponential(multiplier=0.5, max=10) + wait_random(0, 0.5),
                retry=retry_if_exception(may_come),
                sleep=self._sleep,
                reraise=True,
            )(route.provider.fetch, picture)
        except ProviderError as error:
            if after_download(error) is not Then.REFRESH:
                raise
            return error

    async def _polled_again(
        self, route: Route, task: Submitted, limit: TimeLimit, gone: ProviderError
    ) -> Generated:
        """Poll the finished task once more for new addresses; raises `gone` if there are none."""
        # Pass no cancel on: the picture is made and paid for, so it is kept.
        never = asyncio.Event()
        waits_s = chain((0.0,), self._waits_s(route))
        try:
            generated = await self._until_ended(route, task, limit, waits_s, never)
        except Unfinished:
            raise
        except ProviderError:
            generated = None
        if generated is None or not generated.pictures:
            raise gone
        return generated

    def _waits_s(self, route: Route) -> Iterator[float]:
        return route.provider.capabilities(route.model).poll.waits_s(self._draw)

    async def _until_ended(
        self,
        route: Route,
        task: Submitted,
        limit: TimeLimit,
        waits_s: Iterable[float],
        cancel_requested: asyncio.Event,
    ) -> Generated | None:
        """Poll until the task has ended; the provider may demand longer waits, up to LONGEST_RETRY_AFTER_S."""
        retry_after_s, lost = 0.0, 0
        refused: ProviderError | None = None
        try:
            async with asyncio.timeout(limit.left_s() + LAST_POLL_S):
                for wait_s in waits_s:
                    wait_s, left_s = max(wait_s, min(retry_after_s, LONGEST_RETRY_AFTER_S)), limit.left_s()
                    await self._sleep(min(wait_s, left_s))
                    if cancel_requested.is_set() and await route.provider.cancel(task):
                        return None
                    answer = await self._answer(route, task)
                    if isinstance(answer, Generated):
                        return answer
                    refused = answer if isinstance(answer, ProviderError) else None
                    lost = lost + 1 if refused is not None and after_poll(refused) is Then.LOST else 0
                    if refused is not None and lost == LOST_POLLS:
                        raise refused
                    if wait_s >= left_s:
                        # That was the last poll, at the time limit.
                        break
                    retry_after_s = answer.retry_after_s or 0.0
        except TimeoutError:
            refused = None
        raise limit.unfinished(refused)

    async def _answer(self, route: Route, task: Submitted) -> Pending | Generated | ProviderError:
        """Return the reply to one poll, or its error if the poll was refused or the task is unknown."""
        left = await self._turn(route)

        async def leaves(_rtt_s: float | None) -> None:
            left()

        try:
            return await route.provider.poll(task, hooks=CallHooks(before_send=leaves))
        except ProviderError as error:
            if after_poll(error) not in (Then.REPEAT, Then.LOST):
                raise
            return error
        finally:
            left()


def only_picture(generated: Generated) -> Picture:
    """The one picture of a call; raises `no_image` if there is none."""
    if not generated.pictures:
        raise ProviderError(ErrorKind.NO_IMAGE, "The provider answered without a picture.")
    return generated.pictures[0]


def _made_after(run: Run) -> datetime:
    """The earliest possible time of the run's result."""
    if run.submitted is None:
        return datetime.now(UTC)
    # A receipt may have no date.
    return run.submitted.submitted_at or run.place[1]
