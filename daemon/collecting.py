"""What follows when a provider has a task: polls until it has ended, in its provider's rhythm, and the download.

Everything here is about something that may be paid for already, so nothing here is ever a new submit.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from daemon.routes import Route
from providers.base import Generated, Pending, Picture, Provider, Submitted
from providers.errors import ErrorKind, ProviderError, Retry
from providers.http import before_send

FETCH_TRIES = 5
# A task is lost when the provider has said so this many times in a row: one answer may come from a server that has not
# heard of the task yet, and to believe it is to buy the picture again.
LOST_POLLS = 3


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
        self, route: Route, submitted: Submitted, *, resumed: bool, cancel_requested: asyncio.Event
    ) -> Generated | None:
        """The finished task, however long it takes; None: a cancel came, and the provider took it.

        Raises ProviderError if the task has failed.
        """
        waits_s = self._waits_s(route)
        if resumed:
            # It may have ended long ago, so it is looked at soon; but a restart takes many over at once.
            soon_s = self._draw() * next(waits_s)
            waits_s = chain((soon_s,), waits_s)
        return await self._until_ended(route, submitted, waits_s, cancel_requested)

    async def fresh(self, route: Route, submitted: Submitted, expired: ProviderError) -> Generated:
        """The finished task once more, with addresses that have not expired; raises `expired` if it gives none."""
        # No cancel is passed on: the picture is made and paid for, so it is kept.
        nobody = asyncio.Event()
        try:
            generated = await self._until_ended(route, submitted, chain((0.0,), self._waits_s(route)), nobody)
        except ProviderError:
            generated = None
        if generated is None:
            raise expired
        return generated

    async def fetch(self, provider: Provider, picture: Picture) -> bytes:
        """The bytes of a picture; it is paid for, so a failed download is tried again."""
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(FETCH_TRIES),
            wait=wait_random_exponential(multiplier=0.5, max=10),
            retry=retry_if_exception(_may_fetch_again),
            sleep=self._sleep,
            reraise=True,
        ):
            with attempt:
                return await provider.fetch(picture)
        raise AssertionError("AsyncRetrying ends with a result or an exception")

    def _waits_s(self, route: Route) -> Iterator[float]:
        return route.provider.capabilities(route.model).poll.waits_s(self._draw)

    async def _until_ended(
        self,
        route: Route,
        submitted: Submitted,
        waits_s: Iterable[float],
        cancel_requested: asyncio.Event,
    ) -> Generated | None:
        """A poll without an answer is only another wait; a provider that asks for a longer one gets it."""
        provider, asked_s, lost = route.provider, 0.0, 0
        for wait_s in waits_s:
            await self._sleep(max(wait_s, asked_s))
            if cancel_requested.is_set() and await provider.cancel(submitted):
                return None
            try:
                answer = await self._poll(route, submitted)
            except ProviderError as error:
                lost = lost + 1 if error.kind is ErrorKind.TASK_LOST else 0
                if error.retry is not Retry.POLL_AGAIN and lost not in range(1, LOST_POLLS):
                    raise
                asked_s = error.retry_after_s or 0.0
                continue
            if isinstance(answer, Generated):
                return answer
            asked_s, lost = answer.retry_after_s or 0.0, 0
        raise AssertionError("the waits of a poll plan have no end")

    async def _poll(self, route: Route, submitted: Submitted) -> Pending | Generated:
        if self._turn is None:
            return await route.provider.poll(submitted)
        left = await self._turn(route)

        async def leaves(_rtt_s: float | None) -> None:
            left()

        before_send.set(leaves)
        try:
            return await route.provider.poll(submitted)
        finally:
            before_send.set(None)
            left()


def only_picture(generated: Generated) -> Picture:
    """The one picture of a call; raises `no_image` if there is none."""
    if not generated.pictures:
        raise ProviderError(ErrorKind.NO_IMAGE, "The provider answered without a picture.")
    return generated.pictures[0]


def _may_fetch_again(error: BaseException) -> bool:
    return isinstance(error, ProviderError) and error.retry is Retry.POLL_AGAIN
