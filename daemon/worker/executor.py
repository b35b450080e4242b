"""Runs one item: prepare, intent, submit, receipt, poll, fetch, store.

A crash may follow any step. The intent is written before the call, and the receipt right after it. A run that was
taken over resumes from these notes, and never buys a picture that may exist already.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import structlog

from daemon.accounts.routes import Routes, UnknownAccountError, check_request, request_of
from daemon.broker.loops import until_answered
from daemon.queue.messages import LeaseLost
from daemon.queue.outcomes import Cancelled, Failed, Outcome, Released, Succeeded
from daemon.queue.queue import Queue
from daemon.storage.gate import NotStored
from daemon.storage.keeper import PictureKeeper
from daemon.telemetry.metrics import LATE_RECEIPT, Metrics
from daemon.worker import run as runs
from daemon.worker.cache import Reuse
from daemon.worker.download import Download
from daemon.worker.inputs import InputFetcher
from daemon.worker.memory import AnswerMemory
from daemon.worker.permits import CallPermits
from daemon.worker.polls.polling import Polling
from daemon.worker.retry_policy import RetryPolicy
from daemon.worker.run import Phase, Recalled, Run, TimeLimit, only_picture
from daemon.worker.spans import NO_SPANS, Spans
from limiter import Permit
from pixmill.contract import Job
from pixmill.records.keys import CACHED
from providers.base import CallHooks, Generated, Provider, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.room import room_from, time_to_read

log = structlog.get_logger(__name__)

# The longest wait for our store with a finished task; then another replica may poll the task and store its picture.
STORE_PATIENCE_S = 600.0


class Stopped(Exception):  # noqa: N818 - an outcome, not a fault
    """A cancel came while stopping was still free."""


class Executor:
    """Runs items and turns their failures into outcomes."""

    def __init__(
        self,
        queue: Queue,
        keeper: PictureKeeper,
        inputs: InputFetcher,
        polling: Polling,
        download: Download,
        policy: RetryPolicy,
        calls: CallPermits,
        metrics: Metrics,
        routes: Routes,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._routes = routes
        self._queue = queue
        self._keeper = keeper
        self._inputs = inputs
        self._polling = polling
        self._download = download
        self._policy = policy
        self._calls = calls
        self._metrics = metrics
        self._generated = spans.generate(self._answer)
        self._kept = spans.persist(self._keep)
        self._reuse = Reuse(queue, keeper)
        self._memory = AnswerMemory()

    async def run(self, run: Run) -> Outcome:
        """Run the item to its outcome. Raises LeaseLost when the item has another owner."""
        job = Job.from_spec(run.item.spec)
        if run.item.deliveries == 1:
            self._metrics.queue_seconds.labels(route=run.route.name).observe(run.item.queue_us / 1e6)
        started = time.monotonic()
        async with run.beside:
            try:
                outcome = await self._outcome(run, job)
            finally:
                # Before the reports to Redis end, since other answers wait for the memory.
                self._release_room(run)
        if isinstance(outcome, (Succeeded, Failed)):
            waited_s = (run.item.queue_us + run.item.throttled_us) / 1e6
            self._metrics.job_seconds.labels(route=run.route.name).observe(
                waited_s + time.monotonic() - started
            )
        return outcome

    async def _outcome(self, run: Run, job: Job) -> Outcome:
        try:
            return await self._steps(run, job)
        except ProviderError as error:
            self._metrics.count_cost(run.route.provider.name, error.cost, error.currency)
            return await self._policy.outcome(error, run)
        except NotStored as error:
            return self._policy.not_stored(error, run)
        except UnknownAccountError as error:
            return self._policy.unknown_account(error, run)
        except Stopped:
            return Cancelled()
        except Recalled:
            return Released()

    async def _steps(self, run: Run, job: Job) -> Outcome:
        if run.item.place == CACHED:
            with self._room_of(run):
                return await self._reuse.outcome(run, job)
        if _may_be_stored(run):
            with self._room_of(run):
                kept = await self._keeper.find(run.place, job)
            if kept is not None:
                return Succeeded(run.result(job, kept))
        if run.may_have_called and not run.item.receipt:
            raise ProviderError(
                ErrorKind.AMBIGUOUS_SUBMIT,
                "The replica that made this call stopped before it recorded the reply, or Redis lost its record.",
            )
        if run.adopted and not run.item.receipt:
            return Released()
        request = None if run.item.receipt else await self._prepared(run, job)
        if request is None:
            await self._to_owner(run)
        started = time.monotonic()
        # The limit covers only the provider's time, so it starts now: nothing was sent before.
        limit = TimeLimit.of(run, job)
        generated = await self._generated(run, job, limit, request)
        provider_s = time.monotonic() - started
        await self._ended(run)  # unless it was a task, whose place is free since its last poll
        self._metrics.observe_call(run.route.provider.name, run.route.name, provider_s)
        with self._room_of(run):
            picture = only_picture(generated)
            data = picture.data or await self._download.fetch(run, generated, limit)
            image = await self._kept(run, job, data, picture.seed)
        if run.submitted is not None:
            # Count it no earlier: after a takeover, the next owner polls the same task and reads its cost again.
            self._count_cost(run, generated)
        return Succeeded(run.result(job, image, generated, provider_s))

    def _room_of(self, run: Run) -> AbstractContextManager[None]:
        """Let what is read and decoded within be held in the replica's memory for this run."""
        return room_from(partial(self._memory.room_of, run))

    def _release_room(self, run: Run) -> None:
        if run.has_room:
            self._memory.release(run)

    async def _prepared(self, run: Run, job: Job) -> Request | None:
        """Build the request and, when the slot is near, write the intent, unless a cancel or the deadline came first.

        Returns None when the item has a task already; the run then has its receipt.
        """
        if run.instead_of is not None:
            await self._check_spare(run, job)
        inputs = await self._inputs.fetch(job.inputs) if job.inputs else ()
        request = request_of(job, run.route, inputs)
        await self._calls.slot_nears(run)
        if run.cancel_requested.is_set():
            raise Stopped
        TimeLimit.of(run, job).check_unsent()
        receipt = await self._calls.note_intent(run)
        if receipt:
            log.info("the item has a task already; polling it", item=run.item.uid)
            run.item = replace(run.item, receipt=receipt)
            return None
        await self._calls.call_begins(run)
        return request

    async def _check_spare(self, run: Run, job: Job) -> None:
        """Leave an item that the provider of a spare cannot make to its own route; raises Recalled then.

        For an equal it raises ProviderError: no other equal can make the item.
        """
        try:
            check_request(job, run.route)
        except ProviderError as error:
            if run.route in self._routes.first(run.line):
                raise
            log.info(
                "a spare cannot make the item", item=run.item.uid, spare=run.route.name, why=error.message
            )
            await until_answered("unfit", lambda: self._queue.note_unfit(run.item, run.route.name))
            raise Recalled from error

    async def _to_owner(self, run: Run) -> None:
        """Go on with the account that has the item's task. A permit of another account is given back."""
        line = run.route if not run.line else self._routes.get(run.line, run.route)
        owner = self._routes.of_receipt(run.item.receipt, line)
        if owner is not run.route:
            if not run.adopted:
                await self._calls.call_ended(run)
            run.line, run.route = line.name, owner

    async def _answer(self, run: Run, job: Job, limit: TimeLimit, request: Request | None) -> Generated:
        """Return the finished call: a new submit, or the task of an earlier run."""
        accepted_at = None
        if request is None:
            run.submitted = Submitted.from_dict(orjson.loads(run.item.receipt))
        else:
            answer = await self._submit(run, limit, request)
            if isinstance(answer, Generated):
                return answer
            self._release_room(run)  # its pictures come later
            accepted_at = self._polling.clock()
            run.submitted = answer = replace(answer, submitted_at=datetime.now(UTC))
            await run.beside.receipt(partial(self._note_receipt, run, answer))
            await run.beside.begin(partial(self._accepted, run, run.permit))
        generated = await self._polling.ended(
            run, job, run.submitted, limit, accepted_at=accepted_at, is_over=partial(self._ended, run)
        )
        if generated is None:
            raise Stopped
        return generated

    async def _ended(self, run: Run) -> None:
        """Free the call's place at once, since the next call need not wait for the rest of this one.

        The rest does not wait for Redis either: a paid picture is in the store first.
        """
        await run.beside.begin(partial(self._reported, run, run.permit))

    async def _accepted(self, run: Run, permit: Permit | None) -> None:
        await self._calls.call_accepted(run)
        await self._calls.call_answered(run, permit)

    async def _reported(self, run: Run, permit: Permit | None) -> None:
        await self._calls.call_ended(run)
        await self._calls.call_answered(run, permit)

    async def _submit(self, run: Run, limit: TimeLimit, request: Request) -> Submitted | Generated:
        limit.check_unsent()
        run.enter(Phase.CALLING)
        hooks = CallHooks(
            partial(self._calls.call_leaves, run),
            partial(self._calls.call_sent, run),
        )
        try:
            with self._room_of(run):
                answer = await _answered(run.route.provider, request, limit, hooks)
        except ProviderError as error:
            status = str(error.http_status) if error.http_status is not None else error.kind.value
            self._count_request(run, status)
            raise
        except Recalled:
            run.enter(Phase.WAITING)
            raise
        self._count_request(run, "200")
        run.headers = answer.headers
        if isinstance(answer, Generated):
            self._count_cost(run, answer)
        return answer

    async def _note_receipt(self, run: Run, submitted: Submitted) -> None:
        """Write the receipt. Raises LeaseLost when the item has another owner, which then finds the receipt."""
        receipt = run.receipt_of(submitted)
        noted = await until_answered("receipt", lambda: self._queue.note_receipt(run.item, receipt))
        if noted in ("second", "buried"):
            self._metrics.dead_letters.labels(reason=LATE_RECEIPT).inc()
        if noted in ("kept", "buried"):
            log.warning("a receipt came late", item=run.item.uid, task=submitted.task_id, noted=noted)
            if noted == "buried":
                # No run polls this task, but it occupies the account. The new owner's permit covers a `kept` one.
                await self._calls.call_accepted(run)
            raise LeaseLost(f"{run.item.uid} was taken over by another worker")

    async def _keep(self, run: Run, job: Job, data: bytes, seed: int | None) -> dict[str, Any]:
        started = time.monotonic()
        # A picture without a task cannot be fetched again, so memory is the safest place for it.
        patience_s = None if run.submitted is None else STORE_PATIENCE_S
        image = await self._keeper.keep(run.place, job, data, seed=seed, patience_s=patience_s)
        self._metrics.persist_seconds.observe(time.monotonic() - started)
        self._metrics.images.labels(provider=run.route.provider.name, route=run.route.name).inc()
        self._metrics.image_bytes.inc(image["bytes"])
        self._metrics.image_size_bytes.observe(image["bytes"])
        return image

    def _count_request(self, run: Run, status: str) -> None:
        provider = run.route.provider.name
        self._metrics.provider_requests.labels(provider=provider, route=run.route.name, status=status).inc()

    def _count_cost(self, run: Run, generated: Generated) -> None:
        self._metrics.count_cost(run.route.provider.name, generated.cost, generated.currency)


def _may_be_stored(run: Run) -> bool:
    """Whether an earlier run may have stored the picture and not settled it; Redis may have lost that run."""
    return run.item.deliveries > 1 or run.item.survived or run.may_have_called


async def _answered(
    provider: Provider, request: Request, limit: TimeLimit, hooks: CallHooks
) -> Submitted | Generated:
    left_s = limit.left_s()
    try:
        async with time_to_read(left_s + runs.GRACE_S):
            return await provider.submit(request, timeout_s=left_s, hooks=hooks)
    except TimeoutError:
        raise limit.unanswered() from None
