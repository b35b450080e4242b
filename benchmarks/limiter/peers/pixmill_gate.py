"""Pixmill's limiter, used as the daemon's dispatcher uses it.

One task of a model at a time requests a permit and waits for its slot. A call that is late for its slot reports that.
The release of an ended call travels with the next request, if one waits for its place.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from gate import Config, Gate, Job
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from limiter import Later, Limiter, LuaScript, Permit, Places, Recalls, Slot, Slots, parse_quota

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
        self._requesting = {model: asyncio.Lock() for model in config.models}
        self._held: dict[str, Slot] = {}
        self._recalls = Recalls()
        self._places = Places(self._limiter)
        holder = f"replica-{config.replica}"
        self._slots = {
            model: Slots(self._limiter, self._recalls, holder, model, self._places) for model in config.models
        }
        self._queued = Counter[str]()  # calls of each model without a slot
        self._open: dict[str, dict[str, int]] = {}  # the costs of each model's request without a reply
        self._listening = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self.notes |= {"latest_ms": 0.0, "recalled_at_s": [], "lost_leases": 0}
        self.notes |= {"denied": Counter(), "calls": _calls_by_script()}

    async def open(self) -> None:
        # Let the server know the main script, so that the first call need not send it.
        warm_up = [parse_quota("warm-up", {"requests": "1/s"})]
        await Limiter(self._client, "warm-up").acquire(
            warm_up, holder="replica", request_id=f"{self.config.replica}", max_wait_s=0
        )
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
        self._queued[job.model] += 1
        try:
            async with self._requesting[job.model]:
                slot = await self._next_slot(job)
        finally:
            self._queued[job.model] -= 1
        late_ms = round(1e3 * (time.monotonic() - slot.at), 3)
        self.notes["latest_ms"] = max(self.notes["latest_ms"], late_ms)
        if slot.permit.leased:
            self._held[slot.permit.grant_id] = slot
            if self._longest_call_s is not None:
                await self._limiter.submitted(slot.permit, longest_s=self._longest_call_s)
        return slot.permit

    async def release(self, permit: Permit) -> None:
        if permit.leased:
            self._held.pop(permit.grant_id, None)
            await self._places.release(permit)

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
            if self._open.setdefault(job.model, costs) != costs:
                await slots.leave()  # that request failed, and the next one has another cost
            while True:
                self._open[job.model] = costs
                reply = await slots.request(
                    self._quotas[job.model],
                    costs,
                    horizon_s=self._horizon_s,
                    more=self._queued[job.model] > 1,
                )
                del self._open[job.model]
                if isinstance(reply, Later):
                    self.notes["denied"][reply.bound.cause] += 1
                    await slots.pause(reply)
                elif (slot := await slots.wait(reply)) is not None:
                    return slot
                else:
                    self.notes["recalled_at_s"].append(time.monotonic())
        except asyncio.CancelledError:
            await slots.leave()
            raise

    async def _listen(self) -> None:
        async with self._client.pubsub() as bell:
            await bell.subscribe(f"{PREFIX}:bell")
            async for message in bell.listen():
                if message["type"] == "subscribe":
                    self._recalls.note_gap()
                    self._places.wake_all()
                    self._listening.set()
                if message["type"] == "message":
                    self._recalls.note(message["data"].decode())
                    self._places.note(message["data"].decode())

    async def _heartbeat(self) -> None:
        while True:
            # As in the daemon, a young lease needs no renewal before the next beat.
            old_at = time.monotonic() - self._lease_s / 4
            old = [slot.permit for slot in self._held.values() if slot.leaves_at <= old_at]
            self.notes["lost_leases"] += len(await self._limiter.renew(old))
            await asyncio.sleep(self._lease_s / 3)

    async def _lasting(self, loop: Callable[[], Any]) -> None:
        while True:
            with suppress(redis.ConnectionError, redis.TimeoutError, OSError):
                await loop()
            await asyncio.sleep(0.1)


def _calls_by_script() -> Counter[str]:
    """Counts the calls of each script of the limiter from now on."""
    calls, run = Counter[str](), LuaScript.__call__

    async def counted(script: LuaScript, *args: Any) -> Any:
        calls[script.name] += 1
        return await run(script, *args)

    LuaScript.__call__ = counted  # type: ignore[method-assign] # the limiter has no hook for it
    return calls


GATE = PixmillGate
