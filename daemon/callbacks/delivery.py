"""Delivers callbacks: signs and posts due messages, retries them on a schedule, and gives up at last.

A message may arrive more than once, under the same id in all tries. A lease gives it to one replica at a time. The job
does not depend on it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import NamedTuple

import structlog

from daemon.broker.loops import run_forever, until_answered, wait_for_event
from daemon.callbacks.signing import DEFAULT_SECRET, Webhooks
from daemon.queue.bell import LOOK_EVERY_S
from daemon.queue.dead_letters import CALLBACK_FAILED
from daemon.queue.outbox import Message, Outbox, Tried
from daemon.telemetry.metrics import Metrics
from providers.http.addresses import OutsideError, host_of
from providers.http.outside import post
from providers.lack import lack_of

log = structlog.get_logger(__name__)

TIMEOUT_S = 15.0
LEASE_S = 2 * TIMEOUT_S
# The wait after each try. A receiver may be away for hours, so this is the schedule of the Standard Webhooks
# specification up to its ten hours: 17.6 h in all, less than the retention of a record.
DELAYS_S = (5.0, 5 * 60.0, 30 * 60.0, 2 * 3600.0, 5 * 3600.0, 10 * 3600.0)
MOST_AT_ONCE = 64
# A receiver that hangs must not hold up the messages for the others.
MOST_A_HOST = 8
POSTPONED_S = 2.0
GONE = 410


class Result(NamedTuple):
    """The end of one try; `problem` is a sentence that names the host, never the whole address."""

    tried: Tried
    problem: str = ""
    http_status: int | None = None
    delay_s: float = 0.0


class Callbacks:
    """Delivers callbacks for one replica. `rung` is set when messages may be due."""

    def __init__(self, outbox: Outbox, webhooks: Webhooks, metrics: Metrics, *, rung: asyncio.Event) -> None:
        self._outbox = outbox
        self._webhooks = webhooks
        self._metrics = metrics
        self._rung = rung
        self._sending: set[asyncio.Task[None]] = set()
        self._by_host: Counter[str] = Counter()

    async def run(self) -> None:
        await run_forever("callbacks", self._step)

    async def _step(self) -> None:
        self._rung.clear()
        next_s = await self.deliver_due()
        await wait_for_event(self._rung, LOOK_EVERY_S if next_s is None else min(next_s, LOOK_EVERY_S))

    async def deliver_due(self) -> float | None:
        """Begin to deliver due messages while there is room; returns the seconds until the next, or None."""
        room = MOST_AT_ONCE - len(self._sending)
        if room <= 0:
            return None  # a delivery that ends rings
        taken = await self._outbox.take(room, lease_s=LEASE_S)
        if taken.given_up:
            self._metrics.callbacks.labels(result="failed").inc(taken.given_up)
            self._metrics.dead_letters.labels(reason=CALLBACK_FAILED).inc(taken.given_up)
        for message in taken.messages:
            task = asyncio.create_task(self._deliver(message), name=f"callback {message.id}")
            self._sending.add(task)
            task.add_done_callback(self._done)
        return taken.next_s

    async def drain(self) -> None:
        """Wait for the replies to messages in flight; a message without one is sent again after its lease."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=TIMEOUT_S + 1)
            for task in late:
                task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._rung.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a bug while delivering a callback; it is tried again", error=repr(error))

    async def _deliver(self, message: Message) -> None:
        host = host_of(message.url)
        if self._by_host[host] >= MOST_A_HOST:
            await self._settle(message, Result("postponed", delay_s=POSTPONED_S))
            return
        self._by_host[host] += 1
        try:
            result = await self._try(message, host)
        finally:
            self._by_host[host] -= 1
            if not self._by_host[host]:
                del self._by_host[host]
        if not await self._settle(message, result):
            return
        self._metrics.callbacks.labels(result=result.tried).inc()
        about = {"callback": message.id, "host": host, "problem": result.problem}
        if result.tried in ("failed", "gone"):
            self._metrics.dead_letters.labels(reason=CALLBACK_FAILED).inc()
            log.error("a callback was given up", **about)
        elif result.tried == "retry":
            log.warning("a callback failed; it is tried again", **about, in_s=result.delay_s)

    async def _try(self, message: Message, host: str) -> Result:
        secret = message.secret or DEFAULT_SECRET
        if secret not in self._webhooks:
            # The secret existed when the job was accepted: another replica may still have it, or have it already.
            return _failed(message, f'No webhook secret "{secret}" is configured here to sign with.')
        sent_s = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": "pixmill",
            "webhook-id": message.id,
            "webhook-timestamp": str(sent_s),
            "webhook-signature": self._webhooks.sign(secret, message.id, sent_s, message.body),
        }
        try:
            status = await post(
                message.url,
                message.body,
                headers,
                timeout_s=TIMEOUT_S,
                allow_hosts=self._webhooks.allow_hosts,
            )
        except OutsideError as error:
            if lack_of(error) is not None:
                return Result("postponed", delay_s=POSTPONED_S)
            return Result("failed", error.message) if error.refused else _failed(message, error.message)
        if 200 <= status < 300:
            return Result("delivered", http_status=status)
        problem = f"{host} answered the callback with HTTP status {status}."
        if status == GONE:
            return Result("gone", f"{problem} It wants no more callbacks.", status)
        return _failed(message, problem, status)

    async def _settle(self, message: Message, result: Result) -> bool:
        """Record the result; returns whether the message was still ours."""
        letter: dict[str, object] = {
            "kind": CALLBACK_FAILED,
            "message": result.problem,
            "http_status": result.http_status,
        }
        error = letter if result.problem else None
        return await until_answered(
            "settle a callback",
            lambda: self._outbox.settle(message, result.tried, delay_s=result.delay_s, error=error),
        )


def _failed(message: Message, problem: str, http_status: int | None = None) -> Result:
    """Plan one more try, or give up after the last one."""
    if message.attempts >= len(DELAYS_S):
        return Result("failed", problem, http_status)
    return Result("retry", problem, http_status, DELAYS_S[message.attempts])
