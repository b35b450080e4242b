"""The items that this replica runs: a coroutine for each, at most `slots` of them, and what is kept alive for them.

Nothing here knows what running an item means; the executor does, and the settle ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from daemon.accounts.routes import Route
from daemon.broker.loops import until_answered
from daemon.queue.messages import Claimed, LeaseLost
from daemon.queue.outcomes import Cancelled, Outcome, Released, Retry, Succeeded, Unknown
from daemon.queue.queue import Queue
from daemon.telemetry.metrics import Metrics
from daemon.worker.permits import Calls
from daemon.worker.run import Run
from limiter import Permit
from providers.errors import Charged, ErrorKind

log = structlog.get_logger(__name__)

BUG_DELAY_S = 5.0
LATE_S = 5.0

Execute = Callable[[Run], Awaitable[Outcome]]


class Running:
    """Starts, counts, settles and drains runs."""

    def __init__(
        self,
        queue: Queue,
        calls: Calls,
        metrics: Metrics,
        execute: Execute,
        *,
        slots: int,
        on_free: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._calls = calls
        self._metrics = metrics
        self._execute = execute
        self._on_free = on_free
        # By uid and epoch: a replica that stalled may take over its own item while the old run is still ending.
        self._runs: dict[tuple[str, str], Run] = {}
        self._reserved = 0
        self.slots = slots
        metrics.slots.set(slots)

    @property
    def free(self) -> int:
        """Worker slots that nobody uses or has reserved."""
        return max(0, self.slots - len(self._runs) - self._reserved)

    def reserve(self, count: int) -> int:
        """Keep up to `count` slots for a claim that is under way; returns how many."""
        count = min(count, self.free)
        self._reserved += count
        return count

    def unreserve(self, count: int) -> None:
        """Nobody is rung for: who found no slot meanwhile looks again by itself, and two routes that both wait for
        their quotas would otherwise wake each other without end."""
        self._reserved -= count

    def start(
        self,
        item: Claimed,
        route: Route,
        permit: Permit | None,
        *,
        slot_at: float | None = None,
        asked_at: float = 0.0,
        adopted: bool = False,
    ) -> None:
        """Run an item that is ours; a reclaimed one (`adopted`) may exceed the slots, since it only waits."""
        run = Run(item, route, permit, adopted, slot_at, asked_at)
        self._runs[item.uid, item.epoch] = run
        run.task = asyncio.create_task(self._live(run), name=item.uid)

    def current(self) -> list[Run]:
        """All runs, for the heartbeat and for those who look."""
        return list(self._runs.values())

    def ask_cancel(self, uid: str) -> None:
        """Somebody asked to cancel the item; the executor looks at this where it can still stop for free."""
        for run in self._runs.values():
            if run.item.uid == uid:
                run.cancel_requested.set()

    def abandon(self, run: Run) -> None:
        """The item is somebody else's now: stop at once and settle nothing.

        A call that has left is waited for all the same: its receipt, or its picture in the store, is what keeps the new
        owner from paying again.
        """
        if run.abandoned:
            return
        run.abandoned = True
        waits = run.left and run.submitted is None
        log.warning("lost its lease", item=run.item.uid, waits_for_its_answer=waits)
        if run.task is not None and not waits:
            run.task.cancel()

    async def drain(self, timeout_s: float, *, on_late: Callable[[], bool] = lambda: False) -> int:
        """Wait until everything that runs has been settled; returns how many runs were left and handed over.

        `on_late` is called when the time is over; where it answers True, some of them now end by themselves.
        """
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        if not tasks:
            return 0
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        if late and on_late():
            _, late = await asyncio.wait(late, timeout=LATE_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)
        return len(late)

    async def _live(self, run: Run) -> None:
        self._metrics.in_flight.set(len(self._runs))
        try:
            outcome = await self._outcome(run)
            if run.submitted is None and _kind(outcome) == ErrorKind.NETWORK_UNSENT:
                # Not one byte of it left: it was no call, and its permit is given back whole.
                run.sent = False
            answered = run.submitted is not None or not isinstance(outcome, Unknown)
            await self._calls.call_ended(run, answered=answered)
            run.settling = True
            charged = _charged(run, outcome)
            state = await until_answered("settle", lambda: self._queue.settle(run.item, outcome, charged))
            self._count(run, state, outcome)
            self._count_call(run, state, charged)
        except LeaseLost:
            self._metrics.duplicate_results.inc()
            log.warning("another worker took the item over", item=run.item.uid)
        finally:
            # Cancelled here means handed over: the entry stays pending and the next owner adopts the permit.
            del self._runs[run.item.uid, run.item.epoch]
            self._metrics.in_flight.set(len(self._runs))
            self._metrics.last_progress_timestamp_seconds.set_to_current_time()
            self._on_free()

    async def _outcome(self, run: Run) -> Outcome:
        try:
            return await self._execute(run)
        except LeaseLost:
            raise
        except Exception as error:
            log.exception("a bug while running an item", item=run.item.uid)
            message = f"Pixmill failed inside ({type(error).__name__}); the log has the details."
            record = {"kind": "unknown", "message": message, "charged": "maybe", "retryable": True}
            if run.submitted is not None:
                # The provider did its part: trying again goes on with its task.
                record |= {"charged": "yes", "resumable": True}
            elif run.left:
                return Unknown(record)  # The call may be paid for, so what is done now is the job's to say.
            return Retry(record, BUG_DELAY_S)

    def _count_call(self, run: Run, state: str, charged: str) -> None:
        """Counted by whoever settles, as in the item's own account: so the call of a killed worker counts, and once."""
        if charged and state != "lost":
            self._metrics.provider_calls.labels(provider=run.route.provider.name, charged=charged).inc()

    def _count(self, run: Run, state: str, outcome: Outcome) -> None:
        route = run.route.name
        if state == "lost":
            self._metrics.duplicate_results.inc()
            log.warning("settled by another worker before", item=run.item.uid, outcome=outcome.name)
        elif state in {"retry_wait", "throttled"}:
            self._metrics.retries.labels(route=route, kind=_kind(outcome) or "unknown").inc()
        elif state != "queued":
            if state == "failed" and isinstance(outcome, Retry | Unknown):
                reason = "attempts_exhausted" if isinstance(outcome, Retry) else "unknown_outcome"
                self._metrics.dead_letters.labels(reason=reason).inc()
            self._metrics.jobs_finished.labels(route=route, outcome=state).inc()
            if isinstance(outcome, Succeeded) and (cache := outcome.result.get("cache")) is not None:
                self._metrics.cache.labels(result=cache).inc()


def _kind(outcome: Outcome) -> str:
    return str(getattr(outcome, "error", {}).get("kind", ""))


def _charged(run: Run, outcome: Outcome) -> str:
    """Whether the provider takes money for the run's call: no, maybe, yes; '' where it has none to account for.

    An intent that is still written down is that of a worker which went away before it could settle.
    """
    if not run.sent and not (run.adopted and run.item.intent_us is not None):
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
