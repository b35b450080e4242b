"""The limiter's side of a provider call: when it counts, what holds its place in flight, when that is free again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from daemon.accounts.feedback import Accounts
from daemon.broker.loops import until_answered
from daemon.queue.queue import Queue
from daemon.worker.run import Recalled, Run
from limiter import Lag, Limiter, Permit, Quota, Recalls

log = structlog.get_logger(__name__)


class Calls(Protocol):
    """Who has to know when a provider call begins and ends: the limiter's side of a run."""

    async def announce(self, run: Run) -> bytes: ...

    async def call_begins(self, run: Run) -> None: ...

    async def call_leaves(self, run: Run, rtt_s: float | None) -> None: ...

    def call_sent(self, run: Run) -> None: ...

    async def call_answered(self, run: Run) -> None: ...

    async def call_accepted(self, run: Run) -> None: ...

    async def call_ended(self, run: Run, *, answered: bool = True) -> None: ...


class PermittedCalls:
    """One a replica: `Calls` for runs that hold permits of the limiter. `lag` is how late their calls leave.

    `may_buy` is asked before each provider call; False keeps it from being sent.
    """

    def __init__(
        self,
        limiter: Limiter,
        queue: Queue,
        *,
        lease_s: float = 15.0,
        accounts: Accounts | None = None,
        recalls: Recalls | None = None,
        may_buy: Callable[[], bool] = lambda: True,
    ) -> None:
        self.lag = Lag()
        self._limiter = limiter
        self._queue = queue
        # So long after it was seen to be ours nobody can have taken an item over: heartbeats are no further apart.
        self._ours_for_s = lease_s / 3
        self._may_buy = may_buy
        self._accounts = accounts
        self._recalls = recalls or Recalls()
        self._reports: set[asyncio.Task[None]] = set()  # of calls that left late, on their way to the limiter

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
        permit = run.permit
        if permit is None or run.slot_at is None:
            return
        self._refuse_recalled(run, permit)
        if _is_late(run):
            await self._counted_from_now(permit, run.route.quotas)
            run.slot_at = time.monotonic()
            self._refuse_recalled(run, permit)

    async def call_leaves(self, run: Run, rtt_s: float | None) -> None:
        """Its first byte is about to leave: the same once more, since connecting takes its time.

        `rtt_s` is how long it took to connect, None on a connection that stood. Where the process slept since then
        or connecting took long, somebody else may have the item: raises LeaseLost then.
        """
        late_at = run.slot_at
        await self._surely_ours(run, rtt_s)
        await self.call_begins(run)
        # That may have waited for Redis for longer than a lease lasts.
        await self._surely_ours(run, rtt_s)
        run.left = True
        # A call that was late counts from now on, so how late it was says nothing about the others.
        if rtt_s is not None and late_at is not None and late_at == run.slot_at:
            self.lag.observe(round((time.monotonic() - late_at) * 1e6), round(rtt_s * 1e6))

    def call_sent(self, run: Run) -> None:
        """Its last byte has been written: the same at last, since this process may have stood still in between.

        Nothing waits for it. Whoever would be one too many because of this call is let go a period later.
        """
        permit = run.permit
        if permit is not None and _is_late(run):
            run.slot_at = time.monotonic()
            report = asyncio.create_task(self._counted_from_now(permit, run.route.quotas))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)

    async def _surely_ours(self, run: Run, rtt_s: float | None) -> None:
        if time.monotonic() - run.announced_at <= self._ours_for_s:
            return
        if rtt_s is None:
            # It slept, and the provider may have closed the connection meanwhile: what is sent on it would be lost.
            raise Recalled
        if await self.announce(run):
            raise Recalled  # The next run of the item polls that task.

    async def _counted_from_now(self, permit: Permit, quotas: Sequence[Quota]) -> None:
        await until_answered("sent_late", lambda: self._limiter.sent_late(permit, quotas))

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

        A permit whose call was never sent is given back whole; so is that of a worker which went away before it wrote
        down its intent, since it can write none now. A call that was not answered, or whose worker went away without
        noting an answer, may still run at the provider: its place is nobody's to free, and ends with its lease.
        """
        permit, run.permit = run.permit, None
        if permit is None:
            return
        if not run.sent and not _was_sent_before(run):
            await until_answered("give_back", lambda: self._limiter.give_back(permit))
        elif permit.leased and answered and not _is_unanswered(run):
            await until_answered("release", lambda: self._limiter.release(permit))


def _is_late(run: Run) -> bool:
    """Whether the guards of its quotas do not cover how long after its slot it is now."""
    quotas = run.route.quotas
    if run.slot_at is None or not quotas:
        return False
    return time.monotonic() - run.slot_at > min(quota.tolerance_s for quota in quotas)


def _was_sent_before(run: Run) -> bool:
    """Whether the run was taken over from a worker that may have begun its call."""
    return run.adopted and (bool(run.item.receipt) or run.item.intent_us is not None)


def _is_unanswered(run: Run) -> bool:
    """Whether it noted no answer."""
    return run.adopted and not run.item.receipt and run.item.intent_us is not None
