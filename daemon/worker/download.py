"""Downloads the picture of a finished call. It is paid for, so every free way is tried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential, wait_random

from daemon.accounts.routes import Route
from daemon.worker.polls.polling import Polling
from daemon.worker.retry_policy import Then, after_download
from daemon.worker.run import Run, TimeLimit, only_picture
from providers.base import Generated, Picture
from providers.errors import ErrorKind, ProviderError
from providers.http.outside import OutsideError
from providers.lack import lack_of

log = structlog.get_logger(__name__)

FETCH_TRIES = 5  # of one address, within about 10 s; then the task may give another one
ONLY_ADDRESS_TRIES = 10  # of the address of a picture without a task, within about a minute
LIFE_S = 3600.0  # of a picture's address, if its provider documents none; as with most that do


class Download:
    """Fetches pictures; `polling` requests from a task for another address."""

    def __init__(
        self, polling: Polling, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._polling = polling
        self._sleep = sleep

    async def fetch(self, run: Run, generated: Generated, limit: TimeLimit) -> bytes:
        """Return the bytes of the one picture.

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
            again = await self._polling.again(route, task, limit)
            if again is None or not again.pictures:
                raise found
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

        def is_over(state: RetryCallState) -> bool:
            # A lack of this machine passes, and the picture is paid for.
            error = state.outcome.exception() if state.outcome is not None else None
            passes = error is not None and (lack_of(error) or (_is_unreached(error) and young()))
            return state.attempt_number >= tries and not passes

        try:
            return await AsyncRetrying(
                stop=is_over,
                wait=wait_exponential(multiplier=0.5, max=10) + wait_random(0, 0.5),
                retry=retry_if_exception(may_come),
                sleep=self._sleep,
                reraise=True,
            )(route.provider.fetch, picture)
        except ProviderError as error:
            then = after_download(error)
            if then is Then.REFRESH:
                return error
            if then is Then.REPEAT and error.kind is not ErrorKind.RESULT_DOWNLOAD:
                # The picture is paid for, so the refusal of its download must not send the job again.
                kept = ProviderError(ErrorKind.RESULT_DOWNLOAD, error.message, http_status=error.http_status)
                raise kept from None
            raise


def _is_unreached(error: BaseException) -> bool:
    outside = error.__context__
    return isinstance(outside, OutsideError) and outside.unreached is not None


def _made_after(run: Run) -> datetime:
    """The earliest possible time of the run's result."""
    if run.submitted is None:
        return datetime.now(UTC)
    # A receipt may have no date.
    return run.submitted.submitted_at or run.place[1]
