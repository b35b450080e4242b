"""Copies existing pictures: an item whose picture is in the store gets a copy under its own key, without a call.

The copy and its source expire separately. Only this read notices a missing source; the item then runs like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from daemon.accounts.routes import Route
from daemon.broker.loops import run_forever
from daemon.queue.bell import LOOK_EVERY_S, Bell
from daemon.queue.messages import Answer
from daemon.queue.outcomes import Cancelled, Failed, Missed, Outcome, Released, Succeeded
from daemon.queue.queue import Queue
from daemon.storage.gate import NotStored, StorageGate
from daemon.storage.keeper import PictureKeeper
from daemon.worker.pool import Pool
from daemon.worker.run import Run
from limiter.script import uninterrupted
from pixmill.contract import Job
from pixmill.records.keys import CACHED, Uid

AT_ONCE = 8


class Reuse:
    """Runs items that need a copy and no call."""

    def __init__(self, queue: Queue, keeper: PictureKeeper) -> None:
        self._queue = queue
        self._keeper = keeper

    async def outcome(self, run: Run, job: Job) -> Outcome:
        """Return the copy, or the refusal of an identical item, or `Missed` when there is neither."""
        if run.item.receipt:
            return Missed(b"")  # The item has a paid task of its own, which is polled instead.
        if run.cancel_requested.is_set():
            return Cancelled()
        answer = await self._queue.answer(run.item)
        if answer.entry:
            return await self._copied(run, job, answer)
        if answer.refusal:
            return Failed(_shared(answer.refusal))
        return Missed(b"")

    async def _copied(self, run: Run, job: Job, answer: Answer) -> Outcome:
        entry = orjson.loads(answer.entry)
        source = entry["result"]
        try:
            image = await self._keeper.copy(run.place, job, source["images"][0])
        except NotStored:
            return Released()  # the replica stops; nothing was bought, and another replica makes the copy
        if image is None:
            return Missed(answer.entry)
        uid = Uid.parse(entry["from"])
        own = {
            "attempts": run.item.attempts,
            "revised_prompt": source["revised_prompt"],
            "cache": "joined" if answer.joined else "hit",
            "cached_from": f"{uid.batch}/{uid.item}" if uid.batch else uid.item,
        }
        return Succeeded({**run.result(job, image), **own})


def _shared(refusal: bytes) -> dict[str, Any]:
    """The error of an item that made no call of its own."""
    error: dict[str, Any] = orjson.loads(refusal)
    error.pop("cost", None)
    return {**error, "charged": "no"}


class Copies:
    """Claims from the queue `cached` of every route, at most `AT_ONCE` at a time, while the store can be read."""

    def __init__(
        self, routes: Iterable[Route], queue: Queue, pool: Pool, bell: Bell, gate: StorageGate
    ) -> None:
        self._routes = routes
        self._queue = queue
        self._pool = pool
        self._bell = bell
        self._gate = gate

    async def run(self) -> None:
        await run_forever("copies", self.step)

    async def step(self) -> None:
        """Claim once from every route; wait for the bell if nothing was claimed."""
        if self._gate.closed:
            await self._gate.wait_open(LOOK_EVERY_S)
            return
        found = 0
        for route in self._routes:
            if self._room and await self._queue.waiting(route.name, (CACHED,)):
                found += await uninterrupted(self._claim(route))
        if not found:
            await self._bell.wait_for_copies(LOOK_EVERY_S)

    @property
    def _room(self) -> int:
        return AT_ONCE - sum(run.item.place == CACHED for run in self._pool.current())

    async def _claim(self, route: Route) -> int:
        claim = await self._queue.claim(route.name, self._room, queues=(CACHED,))
        for item in claim.items:
            self._pool.start(item, route, None)
        return len(claim.items)
