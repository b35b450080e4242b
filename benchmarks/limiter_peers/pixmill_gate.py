"""Pixmill's limiter, used as the daemon's dispatcher uses it.

One task of a model at a time requests a permit and waits for its slot. A call that is late for its slot reports that. A
call without a place in flight waits for the bell.
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

from limiter import Later, Limiter, Permit, Recalls, Slot, Slots, parse_quota
from limiter.quota.limits import IN_FLIGHT

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
        self._requesting = {model: asyncio.Lock() for model in config.models}
        self._held: dict[str, Permit] = {}
        self._recalls = Recalls()
        self._slots = {
            model: Slots(self._limiter, self._recalls, self._holder(model), model) for model in config.models
        }
        self._costs: dict[str, dict[str, int]] = {}  # of the open request of each model
        self._rung = {model: asyncio.Event() for model in config.models}
        self._listening = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        counts = ("sent_late", "requests", "recalled", "submitted", "released", "renewals", "lost_leases")
        self.notes |= {"latest_ms": 0.0} | dict.fromkeys(counts, 0)

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

    async def acquire(self, job: Job, attempt: int, /) -> Permit:  # noqa: ARG002 - a request that failed stays open
        async with self._requesting[job.model]:
            slot = await self._next_slot(job)
        late_s = time.monotonic() - slot.at
        self.notes["latest_ms"] = max(self.notes["latest_ms"], round(late_s * 1e3, 3))
        if late_s > self._tolerance_s[job.model]:
            self.notes["sent_late"] += 1
            await self._limiter.sent_late(slot.permit, self._quotas[job.model])
        if slot.permit.leased:
            self._held[slot.permit.grant_id] = slot.permit
            if self._longest_call_s is not None:
                self.notes["submitted"] += 1
                await self._limiter.submitted(slot.permit, longest_s=self._longest_call_s)
        return slot.permit

    async def release(self, permit: Permit) -> None:
        if permit.leased:
            self._held.pop(permit.grant_id, None)
            self.notes["released"] += 1
            await self._limiter.release(permit)

    async def refused(self, permit: Permit, retry_after_s: float) -> None:
        # The next permit carries the wait.
        for name in permit.quotas:
            await self._limiter.penalise(
                self._parsed[name], retry_after_s=retry_after_s, reason="rate_limited", permit=permit
            )

    async def _next_slot(self, job: Job) -> Slot:
        """A permit whose slot has come; one call of a model at a time waits for it, as in the dispatcher."""
        slots, costs = self._slots[job.model], {"requests": 1, "images": job.n}
        try:
            if self._costs.setdefault(job.model, costs) != costs:
                await slots.leave()  # a request of another cost that failed
            self._costs[job.model] = costs
            while True:
                reply = await slots.request(self._quotas[job.model], costs, horizon_s=self._horizon_s)
                self.notes["requests"] += 1
                if isinstance(reply, Later):
                    self.notes[f"denied for {reply.bound.cause}"] = (
                        self.notes.get(f"denied for {reply.bound.cause}", 0) + 1
                    )
                    await self._wait(slots.retry_s(reply), reply, self._rung[job.model])
                elif (slot := await slots.wait(reply)) is not None:
                    return slot
                else:
                    self.notes["recalled"] += 1
        except asyncio.CancelledError:
            await slots.leave()
            raise

    def _holder(self, model: str) -> str:
        # A holder waits for a lease under its name, so each model, which waits apart, needs its own.
        return f"replica-{self.config.replica}.{model}"

    async def _wait(self, retry_s: float, denial: Later, rung: asyncio.Event) -> None:
        if denial.bound.cause != IN_FLIGHT:
            await self._recalls.wait(retry_s)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(rung.wait(), retry_s)
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
            if self._held:
                self.notes["renewals"] += 1
                self.notes["lost_leases"] += len(await self._limiter.renew(list(self._held.values())))

    async def _lasting(self, loop: Callable[[], Any]) -> None:
        while True:
            with suppress(redis.ConnectionError, redis.TimeoutError, OSError):
                await loop()
            await asyncio.sleep(0.1)


GATE = PixmillGate
