"""Runs the replica's items, one coroutine each and at most `slots` at once, and settles them.

The executor has the steps of a run; this module does not know them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import orjson
import structlog

from daemon.accounts.routes import Route, Turn
from daemon.broker.loops import until_answered
from daemon.queue.bell import Bell
from daemon.queue.messages import Claimed, LeaseLost
from daemon.queue.outcomes import Cancelled, Outcome, Released, Retry, Succeeded, Throttled, Unknown
from daemon.queue.queue import Queue
from daemon.queue.steps import report_of
from daemon.telemetry.logs import WORK
from daemon.telemetry.metrics import Metrics
from daemon.worker.permits import CallPermits
from daemon.worker.run import Phase, Run
from daemon.worker.spans import NO_SPANS, Spans
from limiter import Permit
from pixmill.records.keys import CACHED
from providers.errors import Charged, ErrorKind
from providers.lack import lack_of

log = structlog.get_logger(__name__)

BUG_DELAY_S = 5.0
HURRIED_S = 5.0  # for runs that end by themselves after `hurry`
# A settle that is older when Redis shows that it lives is not lost: a loss is of about a second.
KEPT_S = 15.0
# Runs without a settle that are remembered. Their items have other owners, unless Redis loses that.
UNSETTLED = 1000


class Settles:
    """The settles of one replica. The latest ones are kept, and sent again when Redis may have lost them.

    A run that ended free of charge leaves only its intent if its settle is lost: an unknown outcome. `clock` is
    monotonic, in seconds.
    Thousands are kept at a high rate, so each is packed, and the garbage collector has nothing to walk through.
    """

    def __init__(self, queue: Queue, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._kept: deque[tuple[float, bytes]] = deque()
        self._life = ""

    async def settle(self, item: Claimed, outcome: Outcome, charged: str) -> str:
        """Settle, as often as needed; returns the same as `Queue.settle`."""
        report = report_of(item, outcome, charged)
        state = await until_answered("settle", lambda: self._queue.settle_report(report))
        if state != "lost":
            # A copy: orjson's own bytes keep the 4 KiB that it writes into.
            packed = memoryview(orjson.dumps(report, default=bytes.decode)).tobytes()
            self._kept.append((self._clock(), packed))
        return state

    def runs(self) -> list[tuple[str, str]]:
        """Uid and epoch of the runs whose settle is kept."""
        reports = map(orjson.loads, (packed for _, packed in self._kept))
        return [(report["uid"], report["epoch"]) for report in reports]

    async def note_life(self, life: str) -> None:
        """Redis takes writes and is in this life; in a new one, send the kept settles again.

        A settle that was not lost changes nothing. Raises the errors of the client; repeat the call then.
        """
        if self._life not in ("", life):
            log.warning(
                "redis began another life; the latest settles are sent again", settles=len(self._kept)
            )
            for _, packed in list(self._kept):
                await self._queue.settle_report(orjson.loads(packed))
        self._life = life
        while self._kept and self._kept[0][0] < self._clock() - KEPT_S:
            self._kept.popleft()


class Pool:
    """Starts, counts, settles and drains runs. It rings the bell whenever a worker slot is free again."""

    def __init__(
        self,
        queue: Queue,
        calls: CallPermits,
        metrics: Metrics,
        bell: Bell,
        execute: Callable[[Run], Awaitable[Outcome]],
        *,
        slots: int,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._queue = queue
        self._calls = calls
        self._metrics = metrics
        self._bell = bell
        self.execute = execute
        # By uid and epoch: a replica that stalled may take over its own item while the old run is still ending.
        self._runs: dict[tuple[str, str], Run] = {}
        self._unsettled: deque[tuple[str, str]] = deque(maxlen=UNSETTLED)
        self.settles = Settles(queue)
        self._run = spans.process(self._run_and_settle)
        self._settle = spans.settle(self.settles.settle)
        self._reserved = 0
        self.slots = slots
        metrics.slots.set(slots)
        metrics.in_flight.set_function(lambda: len(self._runs))
        bell.on_cancel = self.request_cancel

    @property
    def free(self) -> int:
        """Worker slots that are neither used nor reserved."""
        return max(0, self.slots - len(self._runs) - self._reserved)

    def lead_s(self, route: str) -> float:
        """How long before its slot an item should start, see `CallPermits`."""
        return self._calls.lead_s(route)

    def connecting_s(self, route: str) -> float:
        """How long before its slot a call connects, see `CallPermits`."""
        return self._calls.connecting_s(route)

    def reserve(self, count: int) -> int:
        """Keep up to `count` slots for a claim that is under way; returns how many."""
        count = min(count, self.free)
        self._reserved += count
        return count

    def unreserve(self, count: int) -> None:
        """Give slots back without ringing the bell.

        A ring would let two routes that wait for quota wake each other without end. A route that found no slot looks
        again by itself.
        """
        self._reserved -= count

    def start(
        self,
        item: Claimed,
        route: Route,
        permit: Permit | None,
        *,
        slot_at: float | None = None,
        leaves_at: float = 0.0,
        requested_at: float = 0.0,
        started_at: float | None = None,
        turn: Turn | None = None,
        adopted: bool = False,
        line: str = "",
    ) -> None:
        """Run an item of this replica; a reclaimed one (`adopted`) may exceed the slots, since it only waits.

        `started_at` is when its claim began, and `turn` its turn to try the way to the provider. `line` is the item's
        own route, whose account need not be that of `route`.
        """
        run = Run(item, route, permit, adopted, slot_at, leaves_at, requested_at, turn=turn, line=line)
        run.started_at = run.started_at if started_at is None else started_at
        self._runs[item.uid, item.epoch] = run
        run.task = asyncio.create_task(self._run(run), name=item.uid)

    def current(self) -> list[Run]:
        """All runs at this moment."""
        return list(self._runs.values())

    def known(self) -> list[tuple[str, str]]:
        """Uid and epoch of the runs of this replica, of those it gave up, and of those it has settled lately."""
        return [*self._runs, *self._unsettled, *self.settles.runs()]

    def request_cancel(self, uid: str) -> None:
        """Request a cancel of the item; the executor checks for it while stopping is still free."""
        for run in self._runs.values():
            if run.item.uid == uid:
                run.cancel_requested.set()

    def abandon(self, run: Run) -> None:
        """Stop a run whose item has another owner, and settle nothing.

        A call that has left is awaited: its receipt, or its stored picture, keeps the new owner from paying again. A
        run that is settling goes on, because its item looks lost right after the settle.
        """
        if run.phase in (Phase.ORPHANED, Phase.LOST, Phase.SETTLING):
            return
        waits = run.phase is Phase.LEFT and run.submitted is None
        run.enter(Phase.ORPHANED if waits else Phase.LOST)
        log.warning("lost its lease", item=run.item.uid, waits_for_its_answer=waits)
        if run.task is not None and not waits:
            run.task.cancel()

    async def hand_in(self, run: Run) -> None:
        """Give the item's record what this run knows of its call, if Redis has lost the run's claim.

        The item waits again as if nothing had happened. With a receipt its next run polls the task; with an intent
        alone the job's policy decides. Raises the errors of the client.
        """
        if run.noted:
            await self._note_remains(run)

    async def _note_remains(self, run: Run) -> None:
        receipt = b"" if run.submitted is None else run.receipt_of(run.submitted)
        noted = await self._queue.note_remains(run.item, receipt)
        if noted != "lost":
            log.warning("redis lost a claim; its call was handed in", item=run.item.uid, noted=noted)

    async def note_again(self, run: Run) -> None:
        """Write the intent or the receipt of a run again, since Redis has lost it."""
        log.warning("redis lost a note; it is written again", item=run.item.uid, noted=run.noted)
        if run.submitted is not None:
            await self._queue.note_receipt(run.item, run.receipt_of(run.submitted))
            return
        with suppress(LeaseLost):  # the next heartbeat finds that
            await self._queue.note_intent(run.item)

    async def drain(self, timeout_s: float, hurry: Callable[[], bool]) -> int:
        """Wait up to `timeout_s` until all runs are settled; returns how many were handed over.

        `hurry` is called when the time is over; it returns whether some runs now end by themselves.
        """
        late = {run.task for run in self._runs.values() if run.task is not None}
        if late:
            _, late = await asyncio.wait(late, timeout=timeout_s)
        if late and hurry():
            _, late = await asyncio.wait(late, timeout=HURRIED_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)
        return len(late)

    async def _run_and_settle(self, run: Run) -> None:
        WORK.set(run.item)
        state = "lost"
        try:
            outcome = await self._outcome(run)
            if run.submitted is None and _kind(outcome) == ErrorKind.NETWORK_UNSENT:
                # No byte left, so there was no call, and the permit is given back whole.
                run.enter(Phase.WAITING)
            answered = run.submitted is not None or not isinstance(outcome, Unknown)
            await self._calls.call_ended(run, answered=answered)
            charged = _charged(run, outcome)
            run.enter(Phase.SETTLING)
            state = await self._settle(run.item, outcome, charged)
            if state == "lost" and _leaves_a_call(run, outcome):
                await until_answered("remains", lambda: self._note_remains(run))
            self._count(run, state, outcome, charged)
        except LeaseLost:
            self._metrics.duplicate_results.inc()
            log.warning("another worker took the item over", item=run.item.uid)
        finally:
            # Cancelled here means handed over: the entry stays pending and the next owner adopts the permit.
            del self._runs[run.item.uid, run.item.epoch]
            if state == "lost":
                self._unsettled.append((run.item.uid, run.item.epoch))
            if run.turn is not None:
                run.turn.ended()
            self._metrics.last_progress_timestamp_seconds.set_to_current_time()
            self._bell.ring_all()
            if run.item.place == CACHED:
                self._bell.copies_rung.set()

    async def _outcome(self, run: Run) -> Outcome:
        try:
            return await self.execute(run)
        except LeaseLost:
            raise
        except Exception as error:
            lack = lack_of(error)
            log.exception(lack or "a bug while running an item", item=run.item.uid)
            message = f"Pixmill had an internal error ({type(error).__name__}); the log has the details."
            if lack is not None:
                message = f"The item could not go on: {lack}."
            record = {"kind": "unknown", "message": message, "charged": "maybe", "retryable": True}
            if run.submitted is not None:
                # The provider has the task, and a retry goes on with it.
                record |= {"charged": "yes", "resumable": True}
            elif run.phase in (Phase.LEFT, Phase.ORPHANED):
                return Unknown(record)  # The call may be paid for, so the job's policy decides.
            return Retry(record, BUG_DELAY_S) if lack is None else Throttled(record, BUG_DELAY_S)

    def _count(self, run: Run, state: str, outcome: Outcome, charged: str) -> None:
        """Count the result of a settle, so that the call of a killed replica counts too, exactly once."""
        route, metrics = run.route, self._metrics
        if state == "lost":
            metrics.duplicate_results.inc()
            log.warning("settled by another worker before", item=run.item.uid, outcome=outcome.name)
            return
        if charged:
            metrics.provider_calls.labels(provider=route.provider.name, charged=charged).inc()
        if state in {"retry_wait", "throttled"}:
            metrics.retries.labels(route=route.name, kind=_kind(outcome) or "unknown").inc()
        elif state != "queued":
            if state == "failed" and isinstance(outcome, Retry | Unknown):
                reason = "attempts_exhausted" if isinstance(outcome, Retry) else "unknown_outcome"
                metrics.dead_letters.labels(reason=reason).inc()
            metrics.jobs_finished.labels(route=route.name, outcome=state).inc()
            if run.instead_of is not None:
                metrics.jobs_rerouted.labels(route=route.name, instead_of=run.instead_of).inc()
            if isinstance(outcome, Succeeded) and (cache := outcome.result.get("cache")) is not None:
                metrics.cache.labels(result=cache).inc()


def _leaves_a_call(run: Run, outcome: Outcome) -> bool:
    """Whether the item's next run must know of this run's call. A stored picture is found without that."""
    return not isinstance(outcome, Succeeded) and (run.submitted is not None or isinstance(outcome, Unknown))


def _kind(outcome: Outcome) -> str:
    return str(getattr(outcome, "error", {}).get("kind", ""))


def _charged(run: Run, outcome: Outcome) -> str:
    """The charge for the run's call: no, maybe or yes; '' if the run has no call to account for.

    The intent in a claimed item is from a former owner, which could not settle the call.
    """
    if not run.sent and not run.may_have_called:
        return ""
    match outcome:
        case Succeeded():
            return Charged.YES.value
        case Released():
            return ""
        case Cancelled():
            return Charged.NO.value  # the provider promised not to run the task
        case _:
            return str(getattr(outcome, "error", {}).get("charged", Charged.MAYBE.value))
