"""The life of one item: prepare, intent, submit, receipt, poll, fetch, store. Each step may be the last before a crash.

What was asked of the provider is written down before the call, its task id right after; a run that was taken over
resumes where its notes say, and never buys a picture that may be there already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import orjson
import structlog

from daemon.collecting import Collector, only_picture
from daemon.contract import Job
from daemon.inputs import InputFetcher
from daemon.keys import Uid
from daemon.loops import uninterrupted, until_answered
from daemon.metrics import Metrics
from daemon.outcomes import Cancelled, Failed, Outcome, Released, Succeeded
from daemon.pictures import PictureKeeper
from daemon.queue import Queue
from daemon.routes import request_of
from daemon.running import Recalled, Run
from daemon.verdict import Judge
from providers.base import Generated, Provider, Request, Submitted
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.http import before_send, rate_headers

log = structlog.get_logger(__name__)


class Calls(Protocol):
    """Who has to know when a provider call begins and ends: the limiter's side of a run."""

    async def call_begins(self, run: Run) -> None: ...

    async def call_leaves(self, run: Run, rtt_s: float | None) -> None: ...

    async def call_answered(self, run: Run) -> None: ...

    async def call_accepted(self, run: Run) -> None: ...

    async def call_ended(self, run: Run) -> None: ...


class Stopped(Exception):  # noqa: N818 - an outcome, not a fault
    """A cancel came while stopping was still free."""


@dataclass(frozen=True, slots=True)
class Made:
    """A picture that the provider has made, with what it says of it."""

    data: bytes
    generated: Generated
    task_id: str | None
    provider_s: float


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
        kept = await self._kept_before(run, job)
        if kept is not None:
            return Succeeded(_result(run, kept, None))
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
        return Succeeded(_result(run, image, made))

    async def _kept_before(self, run: Run, job: Job) -> dict[str, Any] | None:
        """The picture of an earlier run that was stored and never settled; only an item delivered before has one."""
        if run.item.deliveries == 1:
            return None
        return await self._keeper.find(_place(run), job)

    async def _make(self, run: Run, job: Job) -> Made:
        provider = run.route.provider
        request = None if run.item.receipt else await self._prepared(run, job)
        started = time.monotonic()
        # Only what the provider takes counts here: until then nothing was sent, whatever it took.
        generated = await _in_time(run, job, self._answer(run, provider, request))
        provider_s = time.monotonic() - started
        await self._calls.call_answered(run)
        await self._calls.call_ended(run)
        self._observe_latency(run.route.name, provider_s)
        self._metrics.provider_latency_seconds.labels(provider=provider.name, route=run.route.name).observe(
            provider_s
        )
        data = await self._fetch(run, job, generated)
        return Made(data, generated, run.submitted.task_id if run.submitted else None, provider_s)

    async def _prepared(self, run: Run, job: Job) -> Request:
        """The request, after the last moment at which stopping is free; the intent is written down with it."""
        request = request_of(job, run.route, await self._inputs.fetch(job))
        if run.cancel_requested.is_set():
            raise Stopped
        if _seconds_left(run, job) <= 0:
            raise ProviderError(
                ErrorKind.DEADLINE, "Its deadline passed before the provider was asked.", charged=Charged.NO
            )
        run.announced_at = time.monotonic()
        await until_answered("intent", lambda: self._queue.note_intent(run.item))
        await self._calls.call_begins(run)
        return request

    async def _answer(self, run: Run, provider: Provider, request: Request | None) -> Generated:
        """The finished call: of a new submit, or of the task that an earlier run of the item submitted."""
        if request is None:
            run.submitted = Submitted.from_dict(orjson.loads(run.item.receipt))
        else:
            answer = await self._submit(run, provider, request)
            if isinstance(answer, Generated):
                return answer
            run.submitted = answer
            receipt = orjson.dumps(answer.to_dict())
            # Also when the time is up just now: without this note the task would be bought again.
            await uninterrupted(
                until_answered("receipt", lambda: self._queue.note_receipt(run.item, receipt))
            )
            await self._calls.call_accepted(run)
            await self._calls.call_answered(run)
        return await self._poll(run, run.submitted, resumed=request is None)

    async def _submit(self, run: Run, provider: Provider, request: Request) -> Submitted | Generated:
        run.sent = True
        rate_headers.set({})
        before_send.set(partial(self._calls.call_leaves, run))
        try:
            answer = await provider.submit(request, timeout_s=run.route.timeout_s)
        except ProviderError as error:
            status = str(error.http_status) if error.http_status is not None else error.kind.value
            self._count_request(run, status)
            raise
        except Recalled:
            run.sent = False
            raise
        finally:
            before_send.set(None)
        self._count_request(run, "200")
        run.headers = rate_headers.get()
        if isinstance(answer, Generated):
            self._count_cost(run, answer)
        return answer

    def _count_request(self, run: Run, status: str) -> None:
        provider = run.route.provider.name
        self._metrics.provider_requests.labels(provider=provider, route=run.route.name, status=status).inc()

    def _count_cost(self, run: Run, generated: Generated) -> None:
        self._metrics.count_cost(run.route.provider.name, generated.cost, generated.currency)

    async def _poll(self, run: Run, submitted: Submitted, *, resumed: bool) -> Generated:
        generated = await self._collector.ended(
            run.route, submitted, resumed=resumed, cancel_requested=run.cancel_requested
        )
        if generated is None:
            raise Stopped
        return generated

    async def _fetch(self, run: Run, job: Job, generated: Generated) -> bytes:
        """The bytes of the one picture. Where its address has expired, its task is polled for another one, once."""
        provider = run.route.provider
        try:
            return await self._collector.fetch(provider, only_picture(generated))
        except ProviderError as error:
            if error.kind is not ErrorKind.RESULT_EXPIRED or run.submitted is None:
                raise
            expired = error
        log.info("the picture's address had expired; asking for another one", item=run.item.uid)
        again = await _in_time(run, job, self._collector.fresh(run.route, run.submitted, expired))
        return await self._collector.fetch(provider, only_picture(again))

    async def _keep(self, run: Run, job: Job, made: Made) -> dict[str, Any]:
        started = time.monotonic()
        picture = only_picture(made.generated)
        image = await self._keeper.keep(_place(run), job, made.data, seed=picture.seed)
        self._metrics.persist_seconds.observe(time.monotonic() - started)
        self._metrics.images.labels(provider=run.route.provider.name, route=run.route.name).inc()
        self._metrics.image_bytes.inc(image["bytes"])
        self._metrics.image_size_bytes.observe(image["bytes"])
        return image


def _place(run: Run) -> tuple[Uid, datetime]:
    """What an image's key is made of: the item's name and the time of its acceptance, the same for every run."""
    return Uid.parse(run.item.uid), datetime.fromtimestamp(run.item.accepted_us / 1e6, UTC)


async def _in_time(run: Run, job: Job, answer: Awaitable[Generated]) -> Generated:
    try:
        async with asyncio.timeout(_seconds_left(run, job)):
            return await answer
    except TimeoutError:
        raise _too_late(run, job) from None


def _seconds_left(run: Run, job: Job) -> float:
    if job.deadline is None or run.item.waived:
        return run.route.timeout_s
    return min(run.route.timeout_s, (job.deadline - datetime.now(UTC)).total_seconds())


def _too_late(run: Run, job: Job) -> ProviderError:
    """No answer in time. What that means depends on whether the provider has accepted a task."""
    timeout_s = run.route.timeout_s
    if job.deadline is not None and not run.item.waived and job.deadline <= datetime.now(UTC):
        return ProviderError(ErrorKind.DEADLINE, f"Not finished by its deadline, {job.deadline.isoformat()}.")
    if run.submitted is not None:
        return ProviderError(
            ErrorKind.PROVIDER_TIMEOUT,
            f"The provider's task did not end within {timeout_s:g} s; retrying this item goes on polling it.",
            retry=Retry.NEVER,
        )
    return ProviderError(
        ErrorKind.AMBIGUOUS_SUBMIT,
        f"The provider did not answer within {timeout_s:g} s; whether it made the picture is not known.",
    )


def _is_resumable(run: Run, error: ProviderError) -> bool:
    """Whether the task is still good although the item has failed: a retry then polls it and buys nothing."""
    ours = {ErrorKind.DEADLINE, ErrorKind.RESULT_DOWNLOAD}
    timed_out = error.kind is ErrorKind.PROVIDER_TIMEOUT and error.retry is Retry.NEVER
    return run.submitted is not None and (error.kind in ours or timed_out)


def _result(run: Run, image: dict[str, Any], made: Made | None) -> dict[str, Any]:
    """What the record and the event tell of a finished item (contract: states, events, results)."""
    result: dict[str, Any] = {
        "images": [image],
        "attempts": run.item.attempts + 1,
        "queue_seconds": round(run.item.queue_us / 1e6, 3),
        "throttled_seconds": round(run.item.throttled_us / 1e6, 3),
        "provider_seconds": None,
        "provider_task_id": orjson.loads(run.item.receipt)["task_id"] if run.item.receipt else None,
        "revised_prompt": None,
        "cost": None,
    }
    if made is not None:
        result["provider_seconds"] = round(made.provider_s, 3)
        result["provider_task_id"] = made.task_id
        result["revised_prompt"] = made.generated.revised_prompt
        if made.generated.cost is not None:
            result["cost"] = {"amount": f"{made.generated.cost:f}", "currency": made.generated.currency}
    return result
