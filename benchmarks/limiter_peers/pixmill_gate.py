"""Pixmill's limiter, used as the daemon's dispatcher uses it.

One task at a time requests a permit. A call that is late for its slot reports that. A call without a place in flight
waits for the bell. A grant that the bell recalls before its slot is given up, and the call requests another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from gate import Config, Gate, Job
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from limiter import Grant, Later, Limiter, Permit, Recalls, parse_quota

PREFIX = "bench"
HORIZON_S = 2.0  # how far ahead a slot is taken: as in the dispatcher, unless the rig sets another value


class PixmillGate(Gate):
    distribution = "pixmill"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._lease_s = float(config.options.get("lease_s", 15.0))
        self._longest_call_s = config.options.get("longest_call_s")
        self._horizon_s = float(config.options.get("horizon_s", HORIZON_S))
        # redis-py's own retries would hide from the limiter that a reply was lost.
        self._client = Redis.from_url(config.redis_url, retry=Retry(NoBackoff(), 0))
        self._limiter = Limiter(self._client, PREFIX, lease_s=self._lease_s)
        self._parsed = {name: parse_quota(name, spec) for name, spec in config.quotas.items()}
        self._quotas = {
            model: [self._parsed[name] for name in names] for model, names in config.models.items()
        }
        self._tolerance_s = {
            model: min(quota.tolerance_s for quota in quotas) for model, quotas in self._quotas.items()
        }
        self._asking = {model: asyncio.Lock() for model in config.models}
        self._held: dict[str, Permit] = {}
        self._recalls = Recalls()
        self._rung = {model: asyncio.Event() for model in config.models}
        self._listening = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self.notes |= {"latest_ms": 0.0, "sent_late": 0, "laters": 0, "lost_leases": 0, "given_back": 0}

    async def open(self) -> None:
        await self._client.ping()
        loops = [self._listen]
        if any(self.config.in_flight(model) for model in self.config.models):
            loops.append(self._heartbeat)
        self._background = [asyncio.create_task(self._lasting(loop)) for loop in loops]
        await self._listening.wait()

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._client.aclose()

    async def acquire(self, job: Job, attempt: int, /) -> Permit:
        while True:
            async with self._asking[job.model]:
                permit, asked_at, slot_at, wakes_at = await self._granted(job, attempt)
            try:
                if await self._recalls.sleep(permit, asked_at, wakes_at) and await self._in_time(
                    job, permit, slot_at
                ):
                    break
            except asyncio.CancelledError:
                await self._give_back(permit)
                raise
            await self._give_back(permit)
        if permit.leased:
            self._held[permit.grant_id] = permit
            if self._longest_call_s is not None:
                await self._limiter.submitted(permit, longest_s=self._longest_call_s)
        return permit

    async def _in_time(self, job: Job, permit: Permit, slot_at: float) -> bool:
        late_s = time.monotonic() - slot_at
        self.notes["latest_ms"] = max(self.notes["latest_ms"], round(late_s * 1e3, 3))
        if late_s <= self._tolerance_s[job.model]:
            return True
        self.notes["sent_late"] += 1
        return await self._limiter.retime(permit, self._quotas[job.model])

    async def _give_back(self, permit: Permit) -> None:
        self.notes["given_back"] += 1
        await self._limiter.give_back(permit)

    async def release(self, permit: Permit) -> None:
        if permit.leased:
            self._held.pop(permit.grant_id, None)
            await self._limiter.release(permit)

    async def refused(self, permit: Permit, retry_after_s: float) -> None:
        # The next permit carries the wait.
        for name in permit.quotas:
            await self._limiter.penalise(
                self._parsed[name], retry_after_s=retry_after_s, reason="rate_limited", permit=permit
            )

    async def _granted(self, job: Job, attempt: int) -> tuple[Permit, float, float, float]:
        """The permit, the time of its request, and the earliest and the latest time of its slot."""
        earlier: Later | None = None
        while True:
            requested_at = time.monotonic()
            answer = await self._limiter.acquire(
                self._quotas[job.model],
                costs={"requests": 1, "images": job.n},
                holder=self._holder(job.model),
                request_id=f"{job.id}.{attempt}",
                max_wait_s=self._horizon_s,
                after=earlier,
            )
            if isinstance(answer, Grant):
                # Count from the request: then a slow reply makes a call late and never early.
                wait_s = answer.wait_us / 1e6
                return answer.permit, requested_at, requested_at + wait_s, time.monotonic() + wait_s
            earlier = answer
            self.notes["laters"] += 1
            await self._wait(answer, self._rung[job.model])

    def _holder(self, model: str) -> str:
        # A holder waits for a lease under its name, so each model, which waits apart, needs its own.
        return f"replica-{self.config.replica}.{model}"

    async def _wait(self, later: Later, rung: asyncio.Event) -> None:
        wait_s = later.retry_us / 1e6
        if later.bound.cause != "in_flight":
            # Wait longer than the next slot needs, or each slot after it would be requested in vain once.
            await self._recalls.wait(wait_s + self._horizon_s / 2)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(rung.wait(), wait_s)
        rung.clear()

    async def _listen(self) -> None:
        async with self._client.pubsub() as bell:
            await bell.subscribe(f"{PREFIX}:bell")
            async for message in bell.listen():
                if message["type"] == "subscribe":
                    self._recalls.note_gap()
                    self._listening.set()
                if message["type"] != "message" or self._recalls.note(message["data"].decode()):
                    continue
                _, *holders = message["data"].decode().split()
                for model, rung in self._rung.items():
                    if not holders or self._holder(model) in holders:
                        rung.set()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            lost = await self._limiter.renew(list(self._held.values()))
            self.notes["lost_leases"] += len(lost)

    async def _lasting(self, loop: Callable[[], Any]) -> None:
        while True:
            with suppress(redis.ConnectionError, redis.TimeoutError, OSError):
                await loop()
            await asyncio.sleep(0.1)


GATE = PixmillGate
