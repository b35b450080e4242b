"""Reports provider calls to the limiter: when each counts, and when its place in flight is free again."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Sequence

import structlog

from daemon.accounts.feedback import AccountFeedback
from daemon.broker.loops import until_answered
from daemon.queue.queue import Queue
from daemon.storage.gate import StorageGate
from daemon.worker.run import Phase, Recalled, Run
from daemon.worker.spans import NO_SPANS, Spans
from limiter import Lag, Limiter, Permit, Places, Quota, Recalls

log = structlog.get_logger(__name__)

# How often a late call looks at the clock before it leaves all the same: a slow Redis makes it late each time.
LOOKS = 3
# An item starts before its slot by the longest of this many preparations of its route.
PREPARATIONS = 16
FIRST_LEAD_S = 0.05
LONGEST_LEAD_S = 0.5


class _Lead:
    """How long the latest preparations of a route took: all of each one, and the part from the intent on."""

    def __init__(self) -> None:
        self.whole_s = deque([FIRST_LEAD_S], PREPARATIONS)
        self.connecting_s = deque([FIRST_LEAD_S], PREPARATIONS)


class CallPermits:
    """Keeps the permits of a replica's calls. `lag` measures how late the calls leave.

    No call is sent while the storage `gate` is closed.
    """

    def __init__(
        self,
        limiter: Limiter,
        queue: Queue,
        accounts: AccountFeedback,
        recalls: Recalls,
        places: Places,
        gate: StorageGate,
        *,
        lease_s: float,
        spans: Spans = NO_SPANS,
    ) -> None:
        self.lag = Lag()
        self._slot_comes = spans.permit(self._may_leave)
        self._limiter = limiter
        self._queue = queue
        self._accounts = accounts
        self._recalls = recalls
        self._places = places
        self._gate = gate
        # No replica can take an item over this soon after its intent was written; heartbeats come as often.
        self._ours_for_s = lease_s / 3
        self._leads: defaultdict[str, _Lead] = defaultdict(_Lead)  # by route
        self._reports: set[asyncio.Task[bool]] = set()  # reports of late calls, on their way to the limiter

    def lead_s(self, route: str) -> float:
        """How long before its slot an item should start, so that its connection is open when the slot comes."""
        return min(LONGEST_LEAD_S, max(self._leads[route].whole_s))

    def connecting_s(self, route: str) -> float:
        """How long before its slot a call notes its intent and connects."""
        return min(LONGEST_LEAD_S, self._ours_for_s / 2, max(self._leads[route].connecting_s))

    async def slot_nears(self, run: Run) -> None:
        """Wait until it is time to connect for the call's slot. Nothing is sent so far, so stopping is free.

        Raises Recalled when the permit was recalled.
        """
        run.ready_s = time.monotonic() - run.started_at
        if run.permit is None or run.slot_at is None:
            return
        lead_s = self.connecting_s(run.route.name)
        if not await self._recalls.sleep(run.permit, run.requested_at, run.leaves_at - lead_s):
            raise Recalled

    async def note_intent(self, run: Run) -> bytes:
        """Write the intent of the run's call. Raises LeaseLost: then nothing may be sent.

        Returns the receipt of a task that the item already has, or b"". With a receipt, poll that task and send
        nothing.
        """
        run.connects_at = time.monotonic()
        if run.item.intended and not run.intent_noted_at:
            run.intent_noted_at = run.started_at  # its claim noted it, at this time or later
            return b""
        run.intent_noted_at = run.connects_at
        return await until_answered("intent", lambda: self._queue.note_intent(run.item))

    async def call_begins(self, run: Run) -> None:
        """Check that the call may be sent. A call that is late for its slot counts from now on.

        Raises Recalled when the permit was recalled, the storage gate is closed, or no limit has room for a late call.
        """
        if self._gate.closed:
            raise Recalled
        permit = run.permit
        if permit is None or run.slot_at is None:
            return
        self._refuse_recalled(run, permit)
        # This process may stall while it waits for the reply, so look again.
        for _ in range(LOOKS):
            if not _is_late(run):
                return
            looked_at = time.monotonic()
            if not await self._retimed(permit, run.route.quotas):
                raise Recalled
            run.slot_at = looked_at
            self._refuse_recalled(run, permit)

    async def call_leaves(self, run: Run, rtt_s: float | None) -> None:
        """Wait for the call's slot, and repeat the checks of `call_begins` right before the first byte leaves.

        `rtt_s` is the time to connect, None on an open connection. After a long connect or a stall of this process,
        another replica may own the item: raises LeaseLost then.
        """
        if run.phase is Phase.CALLING:
            lead, connecting_s = self._leads[run.route.name], time.monotonic() - run.connects_at
            lead.connecting_s.append(connecting_s)
            lead.whole_s.append(run.ready_s + connecting_s)
        slot_at = run.slot_at
        await self._slot_comes(run, rtt_s)
        run.route.reach.reached()
        run.enter(Phase.LEFT)
        # A late call counts from now on, so leave its lateness out of the lag.
        if rtt_s is not None and slot_at is not None and slot_at == run.slot_at:
            self.lag.observe(round((time.monotonic() - slot_at) * 1e6), round(rtt_s * 1e6))

    async def _may_leave(self, run: Run, rtt_s: float | None) -> None:
        if run.permit is not None and run.slot_at is not None:
            await self._recalls.sleep(run.permit, run.requested_at, run.leaves_at)
        await self._surely_ours(run, rtt_s)
        await self.call_begins(run)
        # Check again: `call_begins` may have waited for Redis longer than a lease.
        await self._surely_ours(run, rtt_s)

    def call_sent(self, run: Run) -> None:
        """Count a late call again after its last byte, since this process may have stalled in between.

        No call waits for this report. The limiter recalls or delays a later call that would now exceed the limit.
        """
        permit = run.permit
        if permit is not None and run.slot_at is not None and _is_late(run):
            now = time.monotonic()
            log.debug("a call left late", item=run.item.uid, late_s=round(now - run.slot_at, 3))
            run.slot_at = now
            report = asyncio.create_task(self._retimed(permit, run.route.quotas, sent=True))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)

    async def call_answered(self, run: Run, permit: Permit | None) -> None:
        """Pass on the rates in the reply's headers. They are hints, so a failure is only logged.

        `permit` is the call's, also if its place is free by now.
        """
        headers, run.headers = run.headers, {}
        if headers:
            try:
                await self._accounts.note_headers(headers, run.route, permit)
            except Exception as error:
                log.warning("could not note rate headers", route=run.route.name, error=str(error))

    async def call_accepted(self, run: Run) -> None:
        """Keep the call's place in flight until the call ends, even if this replica dies."""
        permit = run.permit
        if permit is not None and permit.leased:
            longest_s = run.route.timeout_s
            await until_answered("submitted", lambda: self._limiter.submitted(permit, longest_s=longest_s))

    async def call_ended(self, run: Run, *, answered: bool = True) -> None:
        """Free the call's place in flight for the next call of the fleet.

        The permit of an unsent call is given back whole. So is an adopted permit without an intent, because its former
        owner can no longer write one. A call without a reply may still run at the provider, so its place ends with its
        lease.
        """
        permit, run.permit = run.permit, None
        if permit is None:
            return
        # For an adopted run: whether its former owner may have sent the call, and whether it wrote a receipt.
        intent_noted = run.adopted and run.may_have_called
        receipt_noted = run.adopted and bool(run.item.receipt)
        if not (run.sent or intent_noted or receipt_noted):
            await until_answered("give_back", lambda: self._limiter.give_back(permit))
        elif permit.leased and answered and (receipt_noted or not intent_noted):
            await until_answered("release", lambda: self._places.release(permit))

    async def _surely_ours(self, run: Run, rtt_s: float | None) -> None:
        if time.monotonic() - run.intent_noted_at <= self._ours_for_s:
            return
        if rtt_s is None:
            # This process stalled, and the provider may have closed the connection: a request on it would be lost.
            raise Recalled
        if await self.note_intent(run):
            raise Recalled  # the next run of the item polls that task

    async def _retimed(self, permit: Permit, quotas: Sequence[Quota], *, sent: bool = False) -> bool:
        return await until_answered("retime", lambda: self._limiter.retime(permit, quotas, sent=sent))

    def _refuse_recalled(self, run: Run, permit: Permit) -> None:
        if self._recalls.covers(permit, run.requested_at):
            raise Recalled


def _is_late(run: Run) -> bool:
    """Whether the run is later than its slot by more than the guards of its quotas."""
    quotas = run.route.quotas
    if run.slot_at is None or not quotas:
        return False
    return time.monotonic() - run.slot_at > min(quota.tolerance_s for quota in quotas)
