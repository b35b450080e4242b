"""The limiter's side of a provider call: when it counts, what holds its place in flight, when that is free again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from daemon.accounts.feedback import AccountFeedback
from daemon.broker.loops import until_answered
from daemon.queue.queue import Queue
from daemon.storage.gate import StorageGate
from daemon.worker.run import Phase, Recalled, Run
from limiter import Lag, Limiter, Permit, Quota, Recalls

log = structlog.get_logger(__name__)


class CallPermits:
    """One a replica: keeps the permits of its calls. `lag` is how late the calls leave.

    No call is sent while the storage `gate` is closed.
    """

    def __init__(
        self,
        limiter: Limiter,
        queue: Queue,
        accounts: AccountFeedback,
        recalls: Recalls,
        gate: StorageGate,
        *,
        lease_s: float,
    ) -> None:
        self.lag = Lag()
        self._limiter = limiter
        self._queue = queue
        self._accounts = accounts
        self._recalls = recalls
        self._gate = gate
        # Nobody can take an item over within this time after it was seen to be ours: heartbeats come as often.
        self._ours_for_s = lease_s / 3
        self._reports: set[asyncio.Task[None]] = set()  # of calls that left late, on their way to the limiter

    async def announce(self, run: Run) -> bytes:
        """Write the intent: the run's call is about to be sent. Raises LeaseLost: then nothing may be sent.

        Returns the receipt of a task of the item that has come to light, or b"". With a receipt, poll that task and
        send nothing.
        """
        run.announced_at = time.monotonic()
        return await until_answered("intent", lambda: self._queue.note_intent(run.item))

    async def call_begins(self, run: Run) -> None:
        """Count a call that is late for its slot from now on.

        Raises Recalled where the permit does not hold any more, and where nothing may be bought now.
        """
        if self._gate.closed:
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
        """Do the same again right before the first byte leaves, since connecting takes its time.

        `rtt_s` is how long it took to connect, None on a connection that stood. Where the process slept since the
        announcement, or connecting took long, another replica may have the item: raises LeaseLost then.
        """
        late_at = run.slot_at
        await self._surely_ours(run, rtt_s)
        await self.call_begins(run)
        # That may have waited for Redis for longer than a lease lasts.
        await self._surely_ours(run, rtt_s)
        run.enter(Phase.LEFT)
        # A call that was late counts from now on, so its lateness is no measure for the others.
        if rtt_s is not None and late_at is not None and late_at == run.slot_at:
            self.lag.observe(round((time.monotonic() - late_at) * 1e6), round(rtt_s * 1e6))

    def call_sent(self, run: Run) -> None:
        """Do the same after the last byte, since this process may have stood still in between.

        Nothing waits for the report. A call that would be one too many because of this one waits a period longer.
        """
        permit = run.permit
        if permit is not None and _is_late(run):
            run.slot_at = time.monotonic()
            report = asyncio.create_task(self._counted_from_now(permit, run.route.quotas))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)

    async def call_answered(self, run: Run) -> None:
        """Pass on the rates in the answer's headers. They are hints: a failure here matters to nobody."""
        headers, run.headers = run.headers, {}
        if headers:
            try:
                await self._accounts.note_headers(headers, run.route, run.permit)
            except Exception as error:
                log.warning("could not note rate headers", route=run.route.name, error=str(error))

    async def call_accepted(self, run: Run) -> None:
        """Let the call occupy the account until it ends, also if this replica dies meanwhile."""
        permit = run.permit
        if permit is not None and permit.leased:
            longest_s = run.route.timeout_s
            await until_answered("submitted", lambda: self._limiter.submitted(permit, longest_s=longest_s))

    async def call_ended(self, run: Run, *, answered: bool = True) -> None:
        """Free the call's place in flight for the next call of the fleet.

        A permit whose call was never sent is given back whole. So is that of a replica which went away before it wrote
        its intent, since it can write none now. A call without an answer may still run at the provider: its place ends
        with its lease.
        """
        permit, run.permit = run.permit, None
        if permit is None:
            return
        # An adopted run: whether the former owner may have sent the call, and whether it noted an answer.
        announced = run.adopted and run.item.intent_us is not None
        noted = run.adopted and bool(run.item.receipt)
        if not (run.sent or announced or noted):
            await until_answered("give_back", lambda: self._limiter.give_back(permit))
        elif permit.leased and answered and (noted or not announced):
            await until_answered("release", lambda: self._limiter.release(permit))

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
        if self._recalls.covers(permit, run.requested_at):
            raise Recalled


def _is_late(run: Run) -> bool:
    """Whether it is later than the slot by more than the guards of its quotas cover."""
    quotas = run.route.quotas
    if run.slot_at is None or not quotas:
        return False
    return time.monotonic() - run.slot_at > min(quota.tolerance_s for quota in quotas)
