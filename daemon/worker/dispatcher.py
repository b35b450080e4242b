"""Dispatches one route: gets a permit, claims an item for it, and starts the item in the pool.

If several accounts serve the queue of a route, each has a dispatcher (spares.py).

If the permit's slot is now, the claim is part of the request for it (`claim.lua`).

An item that must wait for quota stays in its queue; it holds no worker slot, uses no attempt and blocks no other route.
It starts a moment before its slot, so that its connection is open by then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import structlog
from redis.exceptions import RedisError

from daemon.accounts.feedback import AccountFeedback
from daemon.accounts.routes import Route, Turn
from daemon.broker.loops import run_forever
from daemon.queue.bell import LOOK_EVERY_S, Bell
from daemon.queue.messages import Claim, Claimed, PermitRequest
from daemon.queue.pauses import Pause
from daemon.queue.queue import Queue
from daemon.queue.steps import MOST
from daemon.storage.gate import StorageGate
from daemon.telemetry.metrics import Metrics
from daemon.worker.pool import Pool
from daemon.worker.spares import Account
from limiter import Bound, Grant, Later, Limiter, NotRequested, Permit, Slot, Slots, Step
from limiter.quota.limits import IN_FLIGHT
from limiter.script import uninterrupted
from pixmill.records.keys import LANES

log = structlog.get_logger(__name__)

# Take no slot further ahead than this: a replica that dies wastes the slots that it holds.
HORIZON_S = 2.0
# The horizon while the bell is silent: this replica would not notice the recall of a later slot.
SILENT_HORIZON_S = 0.25
LONGEST_WAIT_S = 30.0
# Where no quota paces the route.
CLAIMS_IN_A_ROW = 4
# An item that needs no preparation notes its intent with its claim, if it connects within this time.
EARLY_INTENT_S = 0.02
RESTARTED = "redis restart"  # other replicas hand in what Redis may have lost
STAND_BY_S = 0.25  # how often a spare looks whether it is needed
WORKERS = "workers"  # bound by the workers of this replica


class Dispatcher:
    """Acquires permits for one route and turns each into a running item, or gives it back."""

    def __init__(
        self,
        route: Route,
        queue: Queue,
        limiter: Limiter,
        pool: Pool,
        bell: Bell,
        metrics: Metrics,
        accounts: AccountFeedback,
        gate: StorageGate,
        paused: Callable[[str], Pause | None],
        account: Account | None = None,
    ) -> None:
        self.route = route
        self.line = route.name if account is None else account.line  # the route whose queue it serves
        self.name = route.name if account is None else account.name
        self._account = account
        self.bound: Bound | str | None = None  # why the route waits now, for people
        self.slot_at: float | None = None  # monotonic time of the next slot, if known
        self.looked_at: float | None = None  # monotonic time of the last claim or empty look that succeeded
        self._gate = gate
        self._accounts = accounts
        self._paused = paused
        self._queue = queue
        self._limiter = limiter
        self._pool = pool
        self._bell = bell
        self._metrics = metrics
        self._slots = Slots(limiter, bell.recalls, queue.worker, self.name, bell.places)
        self._quotas = route.quotas  # of the open request; the quota book may replace those of the route
        self._more_waits = False
        self._calm_until = -inf  # monotonic; nothing is claimed so soon after a restart of Redis
        self._lost_claim = False  # the reply to a claim was lost, and it may have run
        self._reported = 0  # failures of the way to the provider that were reported

    async def run(self) -> None:
        try:
            await run_forever(f"dispatcher {self.name}", self._step)
        finally:
            await self._slots.leave()
            if self._lost_claim:
                with suppress(RedisError):
                    await self._release_lost()

    @property
    def pause(self) -> Pause | None:
        """The pause that holds the route back, if there is one."""
        paused = self._paused(self.line)
        return self._paused(self.route.name) if paused is None and self.line != self.route.name else paused

    @property
    def is_needed(self) -> bool:
        """Whether its account may take items of the route: a spare waits until the others are down."""
        return self._account is None or self._account.is_needed

    def lacks_place(self, quotas: Collection[str]) -> bool:
        """Whether an item waits for a free worker, or for a place in flight under one of these quotas."""
        if isinstance(self.bound, Bound):
            return self.bound.cause == IN_FLIGHT and self.bound.quota in quotas
        return self.bound == WORKERS

    async def _step(self) -> None:
        await self._report_reach()
        if self._lost_claim:
            await self._release_lost()
        if not self.is_needed:
            await self._stand_by()
            return
        if not await self._may_start():
            return
        if not self.route.quotas:
            await uninterrupted(self._start_many(asyncio.current_task()))
        # Wait without a worker slot, so that other routes can use it.
        elif (denial := await self._start_paced()) is not None:
            await self._wait_for(denial)
            return
        if not self._more_waits:
            self.bound = None
            await self._rest()

    async def _stand_by(self) -> None:
        self.bound = None
        self.looked_at = time.monotonic()
        await self._slots.leave()
        await asyncio.sleep(STAND_BY_S)

    async def _may_start(self) -> bool:
        """Whether storage, an operator's pause, the way to the provider and free worker slots allow a new item.

        If not, wait a moment.
        """
        if self._gate.closed:
            self.bound = "storage"
            await self._slots.leave()
            await self._gate.wait_open(LOOK_EVERY_S)
            return False
        if (calm_s := self._calm_until - time.monotonic()) > 0:
            self.bound = RESTARTED
            self.looked_at = time.monotonic()
            await self._slots.leave()
            await asyncio.sleep(min(calm_s, LOOK_EVERY_S))
            return False
        away_s = self.route.reach.wait_s
        if (pause := self.pause) is None and self._pool.free and not away_s:
            return True
        # A full or paused replica still counts as consuming while Redis replies.
        waits = await self._queue.waiting(self.line, LANES)
        holds = self.route.unreachable or WORKERS
        self.bound = pause.bound if pause is not None else holds if waits else None
        await self._rest(away_s or LOOK_EVERY_S)
        return False

    async def _report_reach(self) -> None:
        """Report a way to the provider that was lost or found again, and each further failure."""
        failures = self.route.reach.failures
        if failures != self._reported and self.line == self.route.name:
            news = not (failures and self._reported)
            self._reported = failures
            await self._accounts.report_reach(self.route, news=news)

    async def _rest(self, longest_s: float = LOOK_EVERY_S) -> None:
        self.looked_at = time.monotonic()
        await self._slots.leave()
        await self._bell.wait(self.line, min(longest_s, LOOK_EVERY_S))

    async def _start_many(self, caller: asyncio.Task[Any] | None) -> None:
        """Start items without permits. The server works on the next claim while the items of the last one run.

        A row of claims ends with the cancellation of its caller, and with all that `_may_start` would wait for.
        """
        for _ in range(CLAIMS_IN_A_ROW):
            if not (reserved := self._pool.reserve(1 if self.route.reach.lost else MOST)):
                return
            try:
                await self._start(reserved, None)
            finally:
                self._pool.unreserve(reserved)
            is_stopped = caller is not None and caller.cancelling()
            is_held = (
                self._gate.closed or self.pause is not None or self.route.reach.wait_s or not self.is_needed
            )
            if is_stopped or is_held or not self._more_waits or self._calm_until > time.monotonic():
                return

    async def _start_paced(self) -> Later | None:
        """Get a permit and start an item with it; returns a denial. Without work nothing is requested."""
        turn = self.route.reach.take_turn()
        if turn is None:
            return None
        reserved = self._pool.reserve(1)
        try:
            reply = await uninterrupted(self._begin(turn))
            if isinstance(reply, Grant) and (slot := await self._slot_of(reply)) is not None:
                await uninterrupted(self._start(1, slot))
        except NotRequested:
            return None
        finally:
            self._pool.unreserve(reserved)
        return reply if isinstance(reply, Later) else None

    async def _begin(self, turn: Turn) -> Grant | Later | None:
        """Request a permit, and start the item that was claimed with it; returns the reply if there is none."""
        started_at, items = time.monotonic(), list[Claimed]()
        try:
            reply = await self._requested(partial(self._claim_too, items))
        except BaseException:
            turn.ended()
            raise
        if not items:
            turn.ended()
        if items and isinstance(reply, Grant):
            slot = self._slots.take(reply)
            self._count_grant(slot)
            self._run(items, slot, started_at, turn)
        if isinstance(reply, Grant) and reply.scales:
            await self._accounts.rescaled(reply.scales)
        return None if items else reply

    async def _claim_too(
        self, items: list[Claimed], keys: Sequence[str], args: Sequence[str | int], permit: Permit
    ) -> Sequence[Any]:
        """The step of a request that claims an item too, if the slot is now; adds it to `items`."""
        early_s = self._pool.connecting_s(self.route.name)
        claim = await self._claim(1, None, PermitRequest(keys, args, permit.to_json(), early_s))
        items += claim.items
        return claim.requested

    async def _requested(self, step: Step | None = None) -> Grant | Later:
        """The limiter's reply to the request for the next slot."""
        horizon_s = HORIZON_S if self._bell.listening else SILENT_HORIZON_S
        if self._quotas != self.route.quotas:
            await self._slots.leave()
            self._quotas = self.route.quotas
        try:
            reply = await self._slots.request(
                self._quotas, horizon_s=horizon_s, more=self._more_waits, step=step
            )
        except RedisError:
            # Fail closed: without a reply nothing is sent, and the loop tries again.
            self._metrics.limiter_errors.inc()
            self._lost_claim = step is not None
            raise
        self.looked_at = time.monotonic()
        if isinstance(reply, Later):
            self.bound = reply.bound
            self.slot_at = None
            if reply.bound.ends_by_itself:
                self.slot_at = time.monotonic() + reply.retry_us / 1e6 + horizon_s
        return reply

    async def _slot_of(self, grant: Grant) -> Slot | None:
        """The slot of a grant, when it is time to start; None for a permit that was recalled meanwhile."""
        slot = await self._slots.wait(grant, early_s=self._pool.lead_s(self.route.name))
        if slot is not None and (self.pause is not None or not self.is_needed):
            await self._limiter.give_back(slot.permit)
            return None
        if slot is not None:
            self._count_grant(slot)
        return slot

    def _count_grant(self, slot: Slot) -> None:
        waited_s = max(time.monotonic(), slot.leaves_at) - slot.requested_at
        for quota in self.route.quotas:
            self._metrics.limiter_grants.labels(quota=quota.name).inc()
            self._metrics.limiter_wait_seconds.labels(quota=quota.name).observe(waited_s)

    async def _wait_for(self, denial: Later) -> None:
        if self._quotas != self.route.quotas:
            return  # The denial is out of date, and the news of the change came before this wait.
        # The bell rings for a place in flight and for a change of the quota. The end of a window is known.
        hears = denial.bound.cause != IN_FLIGHT or self._bell.listening
        is_spare = self._account is not None and self._account.is_spare  # nothing rings when it is not needed
        longest_s = LONGEST_WAIT_S if hears and not is_spare else LOOK_EVERY_S
        # The route counts as consuming for the whole wait.
        self.looked_at = time.monotonic() + min(self._slots.retry_s(denial), longest_s)
        await self._slots.pause(denial, longest_s)

    async def _start(self, most: int, slot: Slot | None) -> None:
        turn = self.route.reach.take_turn()
        if turn is None:
            if slot is not None:
                await self._limiter.give_back(slot.permit)
            return
        started_at = time.monotonic()
        try:
            claim = await self._claim(most, slot)
        except RedisError:
            turn.ended()
            raise
        self._run(claim.items, slot, started_at, turn)
        if not claim.items:
            turn.ended()
        if slot is not None and not claim.items:
            await self._limiter.give_back(slot.permit)

    def _run(self, items: Sequence[Claimed], slot: Slot | None, started_at: float, turn: Turn) -> None:
        for item in items:
            if slot is None:
                self._pool.start(item, self.route, None, turn=turn, line=self.line)
            else:
                self._pool.start(
                    item,
                    self.route,
                    slot.permit,
                    slot_at=slot.at,
                    leaves_at=slot.leaves_at,
                    requested_at=slot.requested_at,
                    started_at=started_at,
                    turn=turn,
                    line=self.line,
                )

    async def _release_lost(self) -> None:
        """Put back what was claimed without a reply. After a failover, nobody else could tell that nothing was sent."""
        via = None if self._account is None else self.route.name
        released = await self._queue.unclaim(self.line, self._pool.known(), via)
        self._lost_claim = False
        if released:
            log.warning("the reply to a claim was lost; items put back", route=self.name, items=released)

    async def _claim(self, most: int, slot: Slot | None, request: PermitRequest | None = None) -> Claim:
        """Claim up to `most` items, one for the permit of a slot, or one with the request for its permit."""
        permits = [] if slot is None else [slot.permit.to_json()]
        intends = request is not None
        if slot is not None:
            lead_s = self._pool.connecting_s(self.route.name) + EARLY_INTENT_S
            intends = slot.leaves_at - time.monotonic() <= lead_s
        try:
            claim = await self._queue.claim(
                self.line,
                len(permits) or most,
                permits,
                intends=intends,
                request=request,
                serving=None if self._account is None else self._account.serving(),
            )
        except RedisError:
            # The claim may have run. If the permit cannot be given back, its lease ends by itself.
            self._lost_claim = True
            if slot is not None:
                with suppress(RedisError):
                    await self._limiter.give_back(slot.permit)
            raise
        self._more_waits = claim.more
        self._calm_until = time.monotonic() + claim.calm_s
        self.looked_at = time.monotonic()
        if claim.lost:
            self._metrics.entries_lost.inc(claim.lost)
            log.error("entries vanished from the ready stream (trimmed?); queued anew", entries=claim.lost)
        return claim
