"""The items that this replica runs: a coroutine for each, at most `slots` of them, and what is kept alive for them.

Nothing here knows what running an item means; the executor does, and the settle ends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from daemon.accounts import Accounts
from daemon.items import Claimed, LeaseLost
from daemon.loops import until_answered
from daemon.metrics import Metrics
from daemon.outcomes import Outcome, Released, Retry, Succeeded, Unknown
from daemon.queue import Queue
from daemon.routes import Route
from limiter import Lag, Limiter, Permit, Recalls
from providers.base import Submitted
from providers.errors import Charged, ErrorKind

log = structlog.get_logger(__name__)

BUG_DELAY_S = 5.0
LATE_S = 5.0


@dataclass(eq=False, slots=True)
class Run:
    """One item on its way. `permit` is the right to one provider call; None where the route has no quota."""

    item: Claimed
    route: Route
    permit: Permit | None
    adopted: bool = False
    slot_at: float | None = None  # monotonic time for which the permit was granted
    asked_at: float = 0.0  # and at which it was asked for
    cancel_requested: asyncio.Event = field(default_factory=asyncio.Event)
    announced_at: float = 0.0  # monotonic time at which its intent was last written down, and it was ours
    sent: bool = False  # the provider call has begun
    left: bool = False  # and its first byte was about to leave
    abandoned: bool = False  # the item is somebody else's now
    settling: bool = False
    submitted: Submitted | None = None  # the provider's task, once it is known
    headers: Mapping[str, str] = field(
        default_factory=dict
    )  # what its answer said of rates, until it is told
    task: asyncio.Task[None] | None = None


Execute = Callable[[Run], Awaitable[Outcome]]


class Recalled(Exception):  # noqa: N818 - an outcome, not a fault
    """The permit does not hold any more, and the call was not sent."""


class Running:
    """Starts, counts, settles and drains runs."""

    def __init__(
        self,
        queue: Queue,
        limiter: Limiter,
        metrics: Metrics,
        execute: Execute,
        *,
        slots: int,
        lease_s: float = 15.0,
        on_free: Callable[[], None],
        accounts: Accounts | None = None,
        recalls: Recalls | None = None,
        may_buy: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_buy` is asked before each provider call; False keeps it from being sent."""
        self._may_buy = may_buy
        self.lag = Lag()
        self._accounts = accounts
        self._recalls = recalls or Recalls()
        self._queue = queue
        self._limiter = limiter
        self._metrics = metrics
        self._execute = execute
        self._on_free = on_free
        # So long after it was seen to be ours nobody can have taken an item over: heartbeats are no further apart.
        self._surely_ours_s = lease_s / 3
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

    async def announce(self, run: Run) -> bytes:
        """Write down that the run's call is about to be sent. Raises LeaseLost: then nothing may be sent.

        Nor where it returns a receipt: that is of a task of the item which has come to light, to be polled instead.
        """
        run.announced_at = time.monotonic()
        return await until_answered("intent", lambda: self._queue.note_intent(run.item))

    async def call_begins(self, run: Run) -> None:
        """The provider is about to be asked: a call that is late for its slot is counted from now on.

        Raises Recalled where its permit does not hold any more, and where nothing may be bought now.
        """
        if not self._may_buy():
            raise Recalled
        permit, quotas = run.permit, run.route.quotas
        if permit is None or run.slot_at is None:
            return
        self._refuse_recalled(run, permit)
        if quotas and time.monotonic() - run.slot_at > min(quota.tolerance_s for quota in quotas):
            await until_answered("sent_late", lambda: self._limiter.sent_late(permit, quotas))
            run.slot_at = time.monotonic()
            self._refuse_recalled(run, permit)

    async def call_leaves(self, run: Run, rtt_s: float | None) -> None:
        """Its first byte is about to leave: the same once more, since connecting takes its time.

        `rtt_s` is how long it took to connect, None on a connection that stood. Where the process slept since then
        or connecting took long, somebody else may have the item: raises LeaseLost then.
        """
        if time.monotonic() - run.announced_at > self._surely_ours_s:
            if rtt_s is None:
                # It slept, and the provider may have closed the connection meanwhile: what is sent on it would be lost.
                raise Recalled
            if await self.announce(run):
                raise Recalled  # The next run of the item polls that task.
        late_at = run.slot_at
        await self.call_begins(run)
        run.left = True
        # A call that was late counts from now on, so how late it was says nothing about the others.
        if rtt_s is not None and late_at is not None and late_at == run.slot_at:
            self.lag.observe(round((time.monotonic() - late_at) * 1e6), round(rtt_s * 1e6))

    def _refuse_recalled(self, run: Run, permit: Permit) -> None:
        if self._recalls.covers(permit, run.asked_at):
            raise Recalled

    async def call_answered(self, run: Run) -> None:
        """What the answer's headers say of the account. They are hints: nothing that goes wrong here matters."""
        headers, run.headers = run.headers, {}
        if headers and self._accounts is not None:
            try:
                await self._accounts.heard(headers, run.route, run.permit)
            except Exception as error:
                log.warning("could not note rate headers", route=run.route.name, error=str(error))

    async def call_accepted(self, run: Run) -> None:
        """The provider has the job: it occupies the account until it ends, also if this replica dies meanwhile."""
        permit = run.permit
        if permit is not None and permit.leased:
            longest_s = run.route.timeout_s
            await until_answered("submitted", lambda: self._limiter.submitted(permit, longest_s=longest_s))

    async def call_ended(self, run: Run, *, answered: bool = True) -> None:
        """The call is over: its in-flight place is free for the next one, wherever that is made.

        A permit whose call was never sent is given back whole. A call that was not answered, or whose worker went away
        without noting an answer, may still run at the provider: its place is nobody's to free, and ends with its lease.
        """
        permit, run.permit = run.permit, None
        if permit is None:
            return
        if not run.sent and not run.adopted:
            await until_answered("give_back", lambda: self._limiter.give_back(permit))
        elif permit.leased and answered and not _is_unanswered(run):
            await until_answered("release", lambda: self._limiter.release(permit))

    async def _live(self, run: Run) -> None:
        self._metrics.in_flight.set(len(self._runs))
        try:
            outcome = await self._outcome(run)
            if _kind(outcome) == ErrorKind.NETWORK_UNSENT:
                # Not one byte of it left: it was no call, and its permit is given back whole.
                run.sent = False
            await self.call_ended(run, answered=run.submitted is not None or not isinstance(outcome, Unknown))
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


def _is_unanswered(run: Run) -> bool:
    """Whether the run was taken over from a worker that had begun its call and noted no answer."""
    return run.adopted and not run.item.receipt and run.item.intent_us is not None


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
        case _:
            return str(getattr(outcome, "error", {}).get("charged", Charged.MAYBE.value))
