"""What follows when a provider has a task: polls until it has ended, in its provider's rhythm, and the download.

Everything here is about something that may be paid for already, so nothing here is ever a new submit.
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
from daemon.worker.time_limit import TimeLimit, Unfinished
from providers.base import CallHooks, Generated, Pending, Picture, Provider, Submitted
from providers.errors import ErrorKind, ProviderError, Retry

log = structlog.get_logger(__name__)

FETCH_TRIES = 5  # of one address, within about 10 s; then its task may know another one
ONLY_ADDRESS_TRIES = 10  # of a picture that has no task to ask, within about a minute
# A task is lost when the provider has said so this many times in a row: one answer may come from a server that has not
# heard of the task yet, and to believe it is to buy the picture again.
LOST_POLLS = 3
# Of a picture's address, where its provider does not say: as most of those that do.
LIFE_S = 3600.0
# A poll that asks for hours would leave the task alone for longer than its picture's address lives.
LONGEST_ASKED_S = 60.0
# What a task cannot end with, beside what an account is told.
_NOT_HEARD = (ErrorKind.PERMISSION, ErrorKind.NETWORK_UNSENT, ErrorKind.AMBIGUOUS_SUBMIT)
# For the last poll, which leaves when the time is over.
LAST_POLL_S = 10.0


class Collector:
    """Waits for tasks and fetches pictures.

    `turn` waits until a poll of the route may be sent, and what it returns wants to be called when the poll leaves;
    `draw` (0..1) spreads what would otherwise happen in step.
    """

    def __init__(
        self,
        *,
        turn: Callable[[Route], Awaitable[Callable[[], None]]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._turn = turn
        self._sleep = sleep
        self._draw = draw

    async def ended(
        self,
        route: Route,
        submitted: Submitted,
        limit: TimeLimit,
        *,
        resumed: bool,
        cancel_requested: asyncio.Event,
    ) -> Generated | None:
        """The finished task; None: a cancel came, and the provider took it.

        Raises ProviderError if the task has failed, or has not ended when it was asked after once more at the limit.
        """
        waits_s = self._waits_s(route)
        if resumed:
            # It may have ended long ago, so it is looked at soon; but a restart takes many over at once.
            soon_s = self._draw() * next(waits_s)
            waits_s = chain((soon_s,), waits_s)
        return await self._until_ended(route, submitted, limit, waits_s, cancel_requested)

    async def fetch(
        self,
        route: Route,
        generated: Generated,
        submitted: Submitted | None,
        limit: TimeLimit,
        *,
        since: datetime,
    ) -> bytes:
        """The bytes of the one picture. It is paid for, so all is tried that costs nothing.

        `since`: the result is no older. An address without a picture (403, 404, 410) may be ahead of its storage, so it
        is tried again while the result is younger than its addresses live; then its task is polled for another one,
        once. Raises `result_expired` when the result is older than that, or its task gives none any more: then buying
        it again is for the job's policy to decide. Raises `result_download` for what should still be there.
        """
        lives_s = route.provider.capabilities(route.model).url_ttl_s or LIFE_S

        def young() -> bool:
            return (datetime.now(UTC) - since).total_seconds() < lives_s

        tries = FETCH_TRIES if submitted is not None else ONLY_ADDRESS_TRIES
        found = await self._found(route.provider, only_picture(generated), young, tries)
        if isinstance(found, ProviderError) and submitted is not None:
            log.info("the picture is not at its address; asking for another one", task=submitted.task_id)
            again = await self._fresh(route, submitted, limit, found)
            found = await self._found(route.provider, only_picture(again), young, tries)
        if not isinstance(found, ProviderError):
            return found
        if young():
            raise ProviderError(ErrorKind.RESULT_DOWNLOAD, found.message, http_status=found.http_status)
        raise found

    async def _found(
        self, provider: Provider, picture: Picture, young: Callable[[], bool], tries: int
    ) -> bytes | ProviderError:
        """The picture's bytes; the error where nothing is at its address."""
        try:
            return await self._fetched(provider, picture, young, tries)
        except ProviderError as error:
            if error.kind is not ErrorKind.RESULT_EXPIRED:
                raise
            return error

    async def _fetched(
        self, provider: Provider, picture: Picture, young: Callable[[], bool], tries: int
    ) -> bytes:
        def may_come(error: BaseException) -> bool:
            if not isinstance(error, ProviderError):
                return False
            return error.retry is Retry.POLL_AGAIN or (error.kind is ErrorKind.RESULT_EXPIRED and young())

        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(tries),
            wait=wait_exponential(multiplier=0.5, max=10) + wait_random(0, 0.5),
            retry=retry_if_exception(may_come),
            sleep=self._sleep,
            reraise=True,
        ):
            with attempt:
                return await provider.fetch(picture)
        raise AssertionError("AsyncRetrying ends with a result or an exception")

    async def _fresh(
        self, route: Route, submitted: Submitted, limit: TimeLimit, gone: ProviderError
    ) -> Generated:
        """The finished task once more, with addresses that its provider gives now; raises `gone` if it gives none."""
        # No cancel is passed on: the picture is made and paid for, so it is kept.
        nobody = asyncio.Event()
        waits_s = chain((0.0,), self._waits_s(route))
        try:
            generated = await self._until_ended(route, submitted, limit, waits_s, nobody)
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
        submitted: Submitted,
        limit: TimeLimit,
        waits_s: Iterable[float],
        cancel_requested: asyncio.Event,
    ) -> Generated | None:
        try:
            async with asyncio.timeout(limit.left_s() + LAST_POLL_S):
                return await self._polled(route, submitted, limit, waits_s, cancel_requested)
        except TimeoutError:
            raise limit.unfinished() from None

    async def _polled(
        self,
        route: Route,
        submitted: Submitted,
        limit: TimeLimit,
        waits_s: Iterable[float],
        cancel_requested: asyncio.Event,
    ) -> Generated | None:
        """A poll without an answer is only another wait; a provider that asks for a longer one gets it."""
        asked_s, lost = 0.0, 0
        refused: ProviderError | None = None
        for wait_s in waits_s:
            wait_s, left_s = max(wait_s, min(asked_s, LONGEST_ASKED_S)), limit.left_s()
            await self._sleep(min(wait_s, left_s))
            if cancel_requested.is_set() and await route.provider.cancel(submitted):
                return None
            answer = await self._answer(route, submitted)
            if isinstance(answer, Generated):
                return answer
            refused = answer if isinstance(answer, ProviderError) else None
            lost = lost + 1 if refused is not None and refused.kind is ErrorKind.TASK_LOST else 0
            if refused is not None and lost == LOST_POLLS:
                raise refused
            if wait_s >= left_s:
                break  # That was the poll at the limit: what was paid for may have been finished since the one before.
            asked_s = answer.retry_after_s or 0.0
        raise limit.unfinished(refused)

    async def _answer(self, route: Route, submitted: Submitted) -> Pending | Generated | ProviderError:
        """What a poll was told; the error where it was told nothing of the task, or that there is none."""
        try:
            return await self._poll(route, submitted)
        except ProviderError as error:
            if error.kind is ErrorKind.TASK_LOST or _is_of_the_poll(error):
                return error
            raise

    async def _poll(self, route: Route, submitted: Submitted) -> Pending | Generated:
        if self._turn is None:
            return await route.provider.poll(submitted)
        left = await self._turn(route)

        async def leaves(_rtt_s: float | None) -> None:
            left()

        try:
            return await route.provider.poll(submitted, hooks=CallHooks(before_send=leaves))
        finally:
            left()


def _is_of_the_poll(error: ProviderError) -> bool:
    """Whether it was the question that was refused or lost, and nothing is said of the task."""
    if error.retry is Retry.POLL_AGAIN:
        return True
    turned_away = error.retry in (Retry.AFTER_THROTTLE, Retry.PAUSE_QUOTA) or error.kind in _NOT_HEARD
    return turned_away and not error.was_let_in


def only_picture(generated: Generated) -> Picture:
    """The one picture of a call; raises `no_image` if there is none."""
    if not generated.pictures:
        raise ProviderError(ErrorKind.NO_IMAGE, "The provider answered without a picture.")
    return generated.pictures[0]
