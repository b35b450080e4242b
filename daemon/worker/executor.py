"""The life of one item: prepare, intent, submit, receipt, poll, fetch, store. Each step may be the last before a crash.

What was asked of the provider is written down before the call, its task id right after; a run that was taken over
resumes where its notes say, and never buys a picture that may be there already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import structlog

from daemon.accounts.routes import request_of
from daemon.broker.loops import until_answered
from daemon.contract import Job
from daemon.queue.keys import CACHED
from daemon.queue.messages import LeaseLost
from daemon.queue.outcomes import Cancelled, Failed, Outcome, Released, Succeeded
from daemon.queue.queue import Queue
from daemon.storage.gate import NotStored
from daemon.storage.keeper import PictureKeeper
from daemon.telemetry.metrics import LATE_RECEIPT, Metrics
from daemon.worker import time_limit
from daemon.worker.cache import Reuse
from daemon.worker.inputs import InputFetcher
from daemon.worker.permits import Calls
from daemon.worker.polling import Collector, only_picture
from daemon.worker.result import Made, place_of, result_of
from daemon.worker.retry_policy import Judge
from daemon.worker.run import Recalled, Run
from daemon.worker.time_limit import TimeLimit, Unfinished
from limiter.steps import uninterrupted
from providers.base import Generated, Provider, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.client import after_send, before_send, rate_headers

log = structlog.get_logger(__name__)


# A finished task waits so long for our store before another replica may poll and store it.
STORE_PATIENCE_S = 600.0


class Stopped(Exception):  # noqa: N818 - an outcome, not a fault
    """A cancel came while stopping was still free."""


class Executor:
    """Runs items; every failure becomes one of the closed set of outcomes."""

    def __init__(
        self,
        queue: Queue,
        keeper: PictureKeeper,
        inputs: InputFetcher,
        collector: Collector,
        judge: Judge,
        metrics: Metrics,
        *,
        calls: Calls,
        observe_latency: Callable[[str, float], None] = lambda _route, _seconds: None,
    ) -> None:
        self._queue = queue
        self._keeper = keeper
        self._inputs = inputs
        self._judge = judge
        self._metrics = metrics
        self._calls = calls
        self._observe_latency = observe_latency
        self._collector = collector
        self._reuse = Reuse(queue, keeper)

    async def run(self, run: Run) -> Outcome:
        """What became of the item. Raises LeaseLost when it is somebody else's now."""
        job = Job.from_spec(run.item.spec)
        if run.item.deliveries == 1:
            self._metrics.queue_seconds.labels(route=run.route.name).observe(run.item.queue_us / 1e6)
        started = time.monotonic()
        try:
            outcome = await self._steps(run, job)
        except ProviderError as error:
            self._metrics.count_cost(run.route.provider.name, error.cost, error.currency)
            outcome = await self._judge.outcome(error, run, resumable=_is_resumable(run, error))
        except NotStored as error:
            outcome = self._judge.not_stored(error, run)
        except Stopped:
            outcome = Cancelled()
        except Recalled:
            outcome = Released()
        if isinstance(outcome, (Succeeded, Failed)):
            waited_s = (run.item.queue_us + run.item.throttled_us) / 1e6
            self._metrics.job_seconds.labels(route=run.route.name).observe(
                waited_s + time.monotonic() - started
            )
        return outcome

    async def _steps(self, run: Run, job: Job) -> Outcome:
        if run.item.place == CACHED:
            return await self._reuse.outcome(run, job)
        kept = await self._kept_before(run, job)
        if kept is not None:
            return Succeeded(result_of(run, job, kept, None))
        if run.adopted and not run.item.receipt:
            if run.item.intent_us is None:
                return Released()
            raise ProviderError(
                ErrorKind.AMBIGUOUS_SUBMIT,
                "The worker that made this call went away before the answer was written down.",
            )
        made = await self._make(run, job)
        image = await self._keep(run, job, made)
        if made.task_id is not None:
            # Not when it is told: whoever takes the item over is told of the same task's cost again.
            self._count_cost(run, made.generated)
        return Succeeded(result_of(run, job, image, made))

    async def _kept_before(self, run: Run, job: Job) -> dict[str, Any] | None:
        """The picture of an earlier run that was stored and never settled; only an item delivered before has one."""
        if run.item.deliveries == 1:
            return None
        return await self._keeper.find(place_of(run), job)

    async def _make(self, run: Run, job: Job) -> Made:
        provider = run.route.provider
        request = None if run.item.receipt else await self._prepared(run, job)
        started = time.monotonic()
        # Only what the provider takes counts here: until then nothing was sent, whatever it took.
        limit = TimeLimit.of(run, job)
        generated = await self._answer(run, limit, request)
        provider_s = time.monotonic() - started
        await self._calls.call_answered(run)
        await self._calls.call_ended(run)
        self._observe_latency(run.route.name, provider_s)
        self._metrics.provider_latency_seconds.labels(provider=provider.name, route=run.route.name).observe(
            provider_s
        )
        data = await self._fetch(run, limit, generated)
        return Made(data, generated, run.submitted.task_id if run.submitted else None, provider_s)

    async def _prepared(self, run: Run, job: Job) -> Request | None:
        """The request, after the last moment at which stopping is free; the intent is written down with it.

        None: there is a task already, whose receipt the run now has.
        """
        request = request_of(job, run.route, await self._inputs.fetch(job))
        if run.cancel_requested.is_set():
            raise Stopped
        TimeLimit.of(run, job).check_unsent()
        receipt = await self._calls.announce(run)
        if receipt:
            log.info("a task of the item has come to light; polling it", item=run.item.uid)
            run.item = replace(run.item, receipt=receipt)
            return None
        await self._calls.call_begins(run)
        return request

    async def _answer(self, run: Run, limit: TimeLimit, request: Request | None) -> Generated:
        """The finished call: of a new submit, or of the task that an earlier run of the item submitted."""
        if request is None:
            run.submitted = Submitted.from_dict(orjson.loads(run.item.receipt))
        else:
            answer = await self._submit(run, limit, request)
            if isinstance(answer, Generated):
                return answer
            run.submitted = answer = replace(answer, submitted_at=datetime.now(UTC))
            # Also when the run is stopped just now: without this note the task would be bought again.
            await uninterrupted(self._note_receipt(run, answer))
            await self._calls.call_accepted(run)
            await self._calls.call_answered(run)
        return await self._poll(run, limit, run.submitted, resumed=request is None)

    async def _submit(self, run: Run, limit: TimeLimit, request: Request) -> Submitted | Generated:
        limit.check_unsent()
        run.sent = True
        rate_headers.set({})
        before_send.set(partial(self._calls.call_leaves, run))
        after_send.set(partial(self._calls.call_sent, run))
        try:
            answer = await _answered(run.route.provider, request, limit)
        except ProviderError as error:
            status = str(error.http_status) if error.http_status is not None else error.kind.value
            self._count_request(run, status)
            raise
        except Recalled:
            run.sent = False
            raise
        finally:
            before_send.set(None)
            after_send.set(None)
        self._count_request(run, "200")
        run.headers = rate_headers.get()
        if isinstance(answer, Generated):
            self._count_cost(run, answer)
        return answer

    async def _note_receipt(self, run: Run, submitted: Submitted) -> None:
        """Raises LeaseLost when the item is somebody else's now, who then finds the receipt."""
        receipt = orjson.dumps(submitted.to_dict())
        noted = await until_answered("receipt", lambda: self._queue.note_receipt(run.item, receipt))
        if noted in ("second", "buried"):
            self._metrics.dead_letters.labels(reason=LATE_RECEIPT).inc()
        if noted in ("kept", "buried"):
            log.warning("a receipt came late", item=run.item.uid, task=submitted.task_id, noted=noted)
            if noted == "buried":
                # Nobody polls it, but it occupies the account; a `kept` one is polled under the permit of who does.
                await self._calls.call_accepted(run)
            raise LeaseLost(f"{run.item.uid} was taken over by another worker")

    def _count_request(self, run: Run, status: str) -> None:
        provider = run.route.provider.name
        self._metrics.provider_requests.labels(provider=provider, route=run.route.name, status=status).inc()

    def _count_cost(self, run: Run, generated: Generated) -> None:
        self._metrics.count_cost(run.route.provider.name, generated.cost, generated.currency)

    async def _poll(self, run: Run, limit: TimeLimit, submitted: Submitted, *, resumed: bool) -> Generated:
        generated = await self._collector.ended(
            run.route, submitted, limit, resumed=resumed, cancel_requested=run.cancel_requested
        )
        if generated is None:
            raise Stopped
        return generated

    async def _fetch(self, run: Run, limit: TimeLimit, generated: Generated) -> bytes:
        return await self._collector.fetch(run.route, generated, run.submitted, limit, since=_oldest(run))

    async def _keep(self, run: Run, job: Job, made: Made) -> dict[str, Any]:
        started = time.monotonic()
        picture = only_picture(made.generated)
        # A picture without a task cannot be fetched again, so memory is the safest place for it.
        patience_s = None if made.task_id is None else STORE_PATIENCE_S
        image = await self._keeper.keep(
            place_of(run), job, made.data, seed=picture.seed, patience_s=patience_s
        )
        self._metrics.persist_seconds.observe(time.monotonic() - started)
        self._metrics.images.labels(provider=run.route.provider.name, route=run.route.name).inc()
        self._metrics.image_bytes.inc(image["bytes"])
        self._metrics.image_size_bytes.observe(image["bytes"])
        return image


async def _answered(provider: Provider, request: Request, limit: TimeLimit) -> Submitted | Generated:
    left_s = limit.left_s()
    try:
        async with asyncio.timeout(left_s + time_limit.GRACE_S):
            return await provider.submit(request, timeout_s=left_s)
    except TimeoutError:
        raise limit.unanswered() from None


def _oldest(run: Run) -> datetime:
    """The earliest time at which the run's result can have been made."""
    if run.submitted is None:
        return datetime.now(UTC)
    # A receipt without a date is that of an older version.
    return run.submitted.submitted_at or place_of(run)[1]


def _is_resumable(run: Run, error: ProviderError) -> bool:
    """Whether the task is still good although the item has failed: a retry then polls it and buys nothing."""
    ours = isinstance(error, Unfinished) or error.kind is ErrorKind.RESULT_DOWNLOAD
    return run.submitted is not None and ours
