"""An item whose picture is there already: it gets a copy under its own key, and no provider is asked.

A copy, and not the other one's key: both pictures then live and end by themselves. That somebody's picture has gone
is only seen here, where it is read; then the item is made like any other.
"""

from __future__ import annotations

from typing import Any

import orjson

from daemon.contract import Job
from daemon.items import Answer
from daemon.keys import Uid
from daemon.outcomes import Cancelled, Failed, Missed, Outcome, Released, Succeeded
from daemon.pictures import PictureKeeper
from daemon.queue import Queue
from daemon.result_record import place_of, result_of
from daemon.run import Run
from daemon.storage_gate import NotStored


class Reuse:
    """Runs the items of the lane `cached`."""

    def __init__(self, queue: Queue, keeper: PictureKeeper) -> None:
        self._queue = queue
        self._keeper = keeper

    async def outcome(self, run: Run, job: Job) -> Outcome:
        """Its copy; or the refusal of the identical item that it waited for; or `Missed`, when there is neither."""
        if run.item.receipt:
            return Missed(b"")  # A task of its own has come to light: that is paid for, and is polled.
        if run.cancel_requested.is_set():
            return Cancelled()
        answer = await self._queue.answer(run.item)
        if answer.entry:
            return await self._copied(run, job, answer)
        if answer.refusal and answer.joined:
            return Failed(_shared(answer.refusal))
        return Missed(b"")

    async def _copied(self, run: Run, job: Job, answer: Answer) -> Outcome:
        entry = orjson.loads(answer.entry)
        source = entry["result"]
        try:
            image = await self._keeper.copy(place_of(run), job, source["images"][0])
        except NotStored:
            return Released()  # the replica has to stop; nothing was bought, and another one copies it
        if image is None:
            return Missed(answer.entry)
        uid = Uid.parse(entry["from"])
        told = {
            "attempts": run.item.attempts,
            "revised_prompt": source["revised_prompt"],
            "cache": "joined" if answer.joined else "hit",
            "cached_from": f"{uid.batch}/{uid.item}" if uid.batch else uid.item,
        }
        return Succeeded({**result_of(run, job, image, None), **told})


def _shared(refusal: bytes) -> dict[str, Any]:
    """The error of an item whose own call was never made."""
    error: dict[str, Any] = orjson.loads(refusal)
    error.pop("cost", None)
    return {**error, "charged": "no"}
