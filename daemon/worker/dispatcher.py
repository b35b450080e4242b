"""One route's dispatcher: permission first, then a job, then a coroutine for it.

A job that must wait for quota stays in its queue; it holds no worker, burns no attempt and blocks no other route.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import structlog
from redis.exceptions import RedisError

from daemon.accounts.feedback import AccountFeedback
from daemon.accounts.routes import Route
from daemon.broker.loops import run_forever
from daemon.queue.bell import LOOK_EVERY_S, Bell
from daemon.queue.keys import LANES
from daemon.queue.messages import Claim, Claimed
from daemon.queue.pauses import Pause
from daemon.queue.queue import Queue
from daemon.storage.gate import StorageGate
from daemon.telemetry.metrics import Metrics
from daemon.worker.pool import Pool
from limiter.limiter import Grant, Later, Limiter, Permit
from limiter.steps import uninterrupted

log = structlog.get_logger(__name__)

CLAIM_MOST = 64  # items a claim where no quota paces the route
# A slot further away is not granted yet: what a replica holds in advance is lost to the others when it dies.
HORIZON_S = 2.0
# While nobody hears the bell, nobody would hear that a slot further away does not hold any more.
DEAF_HORIZON_S = 0.25
LONGEST_WAIT_S = 30.0
RECALLED = "recalled"


class Slot(NamedTuple):
    """A permit, and the monotonic times at which its call may be sent and at which it was asked for."""

    permit: Permit
    at: float
    asked_at: float


class Dispatcher:
    """Acquires permits for one route and turns each into a running item, or gives it back."""

    def __init__(
        self,
        route: Route,
        queue: Queue,
        limiter: Limiter,
        running: Pool,
        bell: Bell,
        metrics: Metrics,
        accounts: AccountFeedback | None = None,
        gate: StorageGate | None = None,
        paused: Callable[[str], Pause | None] = lambda _route: None,
    ) -> None:
        self._gate = gate
        self._accounts = accounts
        self._paused = paused
        self.route = route
        self.bound: str | None = None  # what holds the route back right now, for people
        self.slot_at: float | None = None  # monotonic time of the next slot, as the limiter last told
        self.looked_at: float | None = None  # monotonic time of the last claim or empty look that succeeded
        self._queue = queue
        self._limiter = limiter
        self._running = running
        self._bell = bell
        self._metrics = metrics
        self._requests = itertools.count()
        self._asked_at: float | None = None  # when the question was asked that has no answer yet
        self._request_id = ""  # of the question that has no grant yet: asked again, it is charged once
        self._told: Later | None = None  # what that question was told last; it may hold a turn
        self._more = False

    async def run(self) -> None:
        try:
            await run_forever(f"dispatcher {self.route.name}", self._step)
        finally:
            await uninterrupted(self._leave_turn())

    @property
    def pause(self) -> Pause | None:
        """The pause that holds the route back, if there is one."""
        return self._paused(self.route.name)

    async def _step(self) -> None:
        if self._gate is not None and self._gate.closed:
            self.bound = "storage"
            await uninterrupted(self._leave_turn())
            await self._gate.wait_open(LOOK_EVERY_S)
            return
        if (pause := self.pause) is not None or not self._running.free:
            self.bound = "workers" if pause is None else pause.bound
            await uninterrupted(self._leave_turn())
            # A full or a paused replica is consuming, if Redis answers.
            await self._queue.waiting(self.route.name, LANES)
            self.looked_at = time.monotonic()
            await self._bell.wait(self.route.name, LOOK_EVERY_S)
            return
        if not self._more and not await self._queue.waiting(self.route.name, LANES):
            self.bound = None
            self.looked_at = time.monotonic()
            await uninterrupted(self._leave_turn())
            await self._bell.wait(self.route.name, LOOK_EVERY_S)
            return
        if self.route.quotas:
            await self._one_with_permit()
        else:
            await self._many()

    async def _many(self) -> None:
        reserved = self._running.reserve(CLAIM_MOST)
        try:
            await uninterrupted(self._claim(reserved))
        finally:
            self._running.unreserve(reserved)

    async def _claim(self, count: int) -> None:
        for item in self._taken(await self._queue.claim(self.route.name, count)):
            self._running.start(item, self.route, None)

    def _taken(self, claim: Claim) -> list[Claimed]:
        self._more = claim.more
        self.looked_at = time.monotonic()
        if claim.lost:
            self._metrics.entries_lost.inc(claim.lost)
            log.error("entries vanished from the ready stream (trimmed?); queued anew", entries=claim.lost)
        return claim.items

    async def _one_with_permit(self) -> None:
        reserved = self._running.reserve(1)
        try:
            answer = await self._permit()
            if isinstance(answer, Slot):
                await uninterrupted(self._claim_for(answer))
        finally:
            self._running.unreserve(reserved)
        if isinstance(answer, Later):
            # Without the slot: a route that waits for its quota must not hold a worker back from the others.
            self.bound = answer.bound
            # When places in flight are freed, or a pause ends, the limiter cannot know.
            timed = not answer.bound.endswith((".in_flight", ".paused"))
            self.slot_at = time.monotonic() + answer.retry_us / 1e6 + self._horizon_s if timed else None
            await self._wait_for(answer)

    async def _permit(self) -> Slot | Later:
        """A permit whose slot has come, or when it makes sense to ask again."""
        if not self._request_id:
            self._request_id = f"{self._queue.worker}:{self.route.name}:{next(self._requests)}"
        # Of the first time: a question that is asked again, since its answer was lost, may have been granted then.
        sent_at = time.monotonic()
        asked_at = self._asked_at = sent_at if self._asked_at is None else self._asked_at
        answer = await uninterrupted(self._acquired(), undo=self._unused)
        self._asked_at = None
        self.looked_at = time.monotonic()
        if isinstance(answer, Later):
            self._told = answer
            return answer
        self._request_id, self._told = "", None
        if answer.scales and self._accounts is not None:
            try:
                await uninterrupted(self._accounts.rescaled(answer.scales))
            except asyncio.CancelledError:
                await uninterrupted(self._limiter.give_back(answer.permit))
                raise
        # Counted from the question and not from its answer: then a slow answer makes a call late, never early.
        slot_at = sent_at + answer.wait_us / 1e6
        came = await self._slot_came(answer, asked_at)
        if not came or self._slept_past(slot_at) or self.pause is not None:
            await uninterrupted(self._limiter.give_back(answer.permit))
            return Later(0, RECALLED)
        for quota in self.route.quotas:
            self._metrics.limiter_grants.labels(quota=quota.name).inc()
            self._metrics.limiter_wait_seconds.labels(quota=quota.name).observe(time.monotonic() - asked_at)
        return Slot(answer.permit, slot_at, asked_at)

    def _slept_past(self, slot_at: float) -> bool:
        """Whether this process stood still for so long that its place in flight may be another one's by now."""
        return time.monotonic() - slot_at > self._limiter.lease_s / 2

    @property
    def _horizon_s(self) -> float:
        return HORIZON_S if self._bell.listening else DEAF_HORIZON_S

    async def _unused(self, answer: Grant | Later) -> None:
        charged = answer.permit if isinstance(answer, Grant) else answer.turn
        if charged is not None:
            await self._limiter.give_back(charged)

    async def _leave_turn(self) -> None:
        """Who cannot use its turn leaves it to others; a question without an answer may have been given one."""
        # Where Redis is away, one call's quota is lost, as when a replica dies.
        with suppress(RedisError):
            told = self._told if self._asked_at is None else await self._acquired()
            if told is not None:
                await self._unused(told)
        self._told, self._request_id, self._asked_at = None, "", None

    async def _acquired(self) -> Grant | Later:
        try:
            return await self._limiter.acquire(
                self.route.quotas,
                holder=self._queue.worker,
                request_id=self._request_id,
                max_wait_s=self._horizon_s,
                after=self._told,
            )
        except RedisError:
            # Fails closed: without an answer nothing is sent, and the loop asks again.
            self._metrics.limiter_errors.inc()
            raise

    async def _wait_for(self, later: Later) -> None:
        # The bell rings when a lease is freed, and when a quota was changed; a window's end is known, so nothing
        # rings for it. There the question waits a little longer than it must: at the first moment at which a slot
        # is near enough only one is, and each one after it would be asked for in vain once.
        wait_s = later.retry_us / 1e6
        if later.bound == RECALLED:
            return
        if later.bound.endswith(".in_flight"):
            await self._bell.wait(self.route.name, min(wait_s, LOOK_EVERY_S))
        else:
            wait_s = min(wait_s + self._horizon_s / 2, LONGEST_WAIT_S)
            # It is looking all the time, at a clock.
            self.looked_at = time.monotonic() + wait_s
            await self._bell.recalls.wait(wait_s)

    async def _slot_came(self, grant: Grant, asked_at: float) -> bool:
        """Sleep until the slot; False if the permit is called back before."""
        try:
            slot_at = time.monotonic() + grant.wait_us / 1e6
            return await self._bell.recalls.sleep(grant.permit, asked_at, slot_at)
        except asyncio.CancelledError:
            await uninterrupted(self._limiter.give_back(grant.permit))
            raise

    async def _claim_for(self, slot: Slot) -> None:
        permit = slot.permit
        try:
            items = self._taken(await self._queue.claim(self.route.name, 1, [permit.to_json()]))
        except RedisError:
            # Not known whether the claim ran. If it did, the item is pending without an owner that renews it and is
            # reclaimed; nothing was sent either way. Where Redis is away the lease ends by itself.
            with suppress(RedisError):
                await self._limiter.give_back(permit)
            raise
        if not items:
            await self._limiter.give_back(permit)
            return
        self._running.start(items[0], self.route, permit, slot_at=slot.at, requested_at=slot.asked_at)
