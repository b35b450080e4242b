"""What follows when a provider has a task: polls in the provider's rhythm until it has ended, and the download.

The task may be paid for already, so nothing here is ever a new submit.
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

FETCH_TRIES = 5  # of one address, within about 10 s; then its task may know another one
ONLY_ADDRESS_TRIES = 10  # of the address of a picture without a task, within about a minute
# One answer may come from a server that does not know the task yet, and to believe it is to buy the picture again.
LOST_POLLS = 3
LIFE_S = 3600.0  # of a picture's address, where its provider does not say: as at most of those that do
# A poll that is put off for hours would leave the task alone for longer than its picture's address lives.
LONGEST_RETRY_AFTER_S = 60.0
LAST_POLL_S = 10.0  # for the last poll, which leaves when the time is over


class Polling:
    """Waits for tasks and fetches pictures.

    `turn` waits until a poll of the route may be sent, and returns a callable for the moment when the poll leaves.
    `draw` (0..1) spreads what would otherwise happen in step.
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
        """Return the finished task; None when a cancel came and the provider took it.

        Raises ProviderError if the task has failed, or has not ended when it was polled once more at the limit.
        """
        waits_s = self._waits_s(run.route)
        if resumed:
            # It may have ended long ago, so the first poll comes soon; but a restart takes many tasks over at once.
            soon_s = self._draw() * next(waits_s)
            waits_s = chain((soon_s,), waits_s)
        return await self._until_ended(run.route, task, limit, waits_s, run.cancel_requested)

    async def fetch(self, run: Run, generated: Generated, limit: TimeLimit) -> bytes:
        """The bytes of the one picture. It is paid for, so every way is tried that costs nothing.

        An address without a picture (403, 404, 410) may be ahead of its storage, so it is tried again while the result
        is younger than its addresses live; then its task is polled once for another address. Raises `result_expired`
        when the result is older than that, or its task gives no address any more: the job's policy then decides
        whether to buy it again. Raises `result_download` for a picture that should still be there.
        """
        route, task, since = run.route, run.submitted, _oldest(run)
        lives_s = route.provider.capabilities(route.model).url_ttl_s or LIFE_S

        def young() -> bool:
            return (datetime.now(UTC) - since).total_seconds() < lives_s

        tries = FETCH_TRIES if task is not None else ONLY_ADDRESS_TRIES
        found = await self._found(route, only_picture(generated), young, tries)
        if isinstance(found, ProviderError) and task is not None:
            log.info("the picture is not at its address; polling for another one", task=task.task_id)
            again = await self._fresh(route, task, limit, found)
            found = await self._found(route, only_picture(again), young, tries)
        if not isinstance(found, ProviderError):
            return found
        if young():
            raise ProviderError(ErrorKind.RESULT_DOWNLOAD, found.message, http_status=found.http_status)
        raise found

    async def _found(
        self, route: Route, picture: Picture, young: Callable[[], bool], tries: int
    ) -> bytes | ProviderError:
        """The picture's bytes; the error where nothing is at its address."""

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

    async def _fresh(self, route: Route, task: Submitted, limit: TimeLimit, gone: ProviderError) -> Generated:
        """The finished task once more, with the addresses that its provider gives now; raises `gone` without any."""
        # No cancel is passed on: the picture is made and paid for, so it is kept.
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
        """Poll until the task has ended; a provider that wants a longer wait gets it."""
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
                        # That was the poll at the limit: the task may have ended since the poll before it.
                        break
                    retry_after_s = answer.retry_after_s or 0.0
        except TimeoutError:
            refused = None
        raise limit.unfinished(refused)

    async def _answer(self, route: Route, task: Submitted) -> Pending | Generated | ProviderError:
        """The reply to one poll; its error where the poll was turned away, or where the task is unknown."""
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


def _oldest(run: Run) -> datetime:
    """The earliest time at which the run's result can have been made."""
    if run.submitted is None:
        return datetime.now(UTC)
    # A receipt need not have a date.
    return run.submitted.submitted_at or run.place[1]
