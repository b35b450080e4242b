"""Follows the events of one batch or job until it has ended, over lost connections too.

The record is the truth and the events say when to look: an end that no event told (a trimmed stream, a job
that ended before anybody watched) is told from the record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

import orjson
from redis.asyncio import Redis

from daemon.broker.backoff import pause_s
from daemon.broker.errors import CONNECTION_FAULTS
from daemon.broker.streams import tail, wait_after
from daemon.contract import Event
from daemon.queue.keys import Keys
from daemon.queue.records import GroupView, ItemView, Records

BLOCK_MS = 1000  # also how long an end that no event tells stays unnoticed
PAGE = 500

T = TypeVar("T")
Start = Literal["beginning", "now"] | str


class StreamEvent(Event):
    """An event with its place in the stream, where a later watch can go on; '' when a record told it."""

    id: str = ""


class Watcher:
    """`blocking` is a client of its own: a blocking read holds its connection.

    `patience_s` is how long Redis may be away before the last error is raised; None waits for ever.
    """

    def __init__(
        self,
        records: Records,
        blocking: Redis,
        *,
        patience_s: float | None = None,
        on_trouble: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._records = records
        self._blocking = blocking
        self._keys: Keys = records.keys
        self._patience_s = patience_s
        self._on_trouble = on_trouble

    async def batch(self, view: GroupView, start: Start = "beginning") -> AsyncIterator[StreamEvent]:
        """Every event of a batch to its `batch.finished`; if it was retried since, to the next one."""
        stream = self._keys.batch_events(view.id)
        finished = False
        async for page in self._follow(stream, await self._position(stream, start)):
            for event in page:
                # Batches of one name in two tenants share a stream.
                if event.data.get("tenant") != view.tenant:
                    continue
                if event.type == "batch.finished":
                    finished = True
                elif event.type == "batch.progress":
                    # A replica may tell of what it counted just before the end.
                    if finished:
                        continue
                else:
                    finished = False
                yield event
            if page and not (finished and len(page) < PAGE):
                continue
            group = await self._patiently(lambda: self._records.group(view.gid))
            if group is None or group.ended:
                if not finished:
                    yield _batch_finished(group or view)
                return

    async def job(self, view: GroupView | ItemView, start: Start = "now") -> AsyncIterator[StreamEvent]:
        """The events of a job that belongs to no batch, or of one item of a batch, to its end."""
        stream = (
            self._keys.batch_events(view.batch)
            if isinstance(view, ItemView) and view.batch
            else self._keys.events
        )
        position = await self._position(stream, start)
        told: set[str] = set()  # items whose end has been told
        checked_at = float("-inf")
        page: list[StreamEvent] = []
        pages = self._follow(stream, position)
        while True:
            mine = [event for event in page if _is_about(event, view)]
            for event in mine:
                if event.type == "job.queued":
                    told.discard(event.data["item"])
                elif event.type in _ENDS:
                    if event.data["item"] in told:
                        continue
                    told.add(event.data["item"])
                yield event
            # On a busy stream no page is ever empty, so the clock says when to look as well.
            if not page or mine or time.monotonic() - checked_at > BLOCK_MS / 1000:
                checked_at = time.monotonic()
                ended = await self._ended(view)
                for event in await self._ends(view, told):
                    yield event
                if ended:
                    return
            page = await anext(pages)

    async def _ended(self, view: GroupView | ItemView) -> bool:
        now: GroupView | ItemView | None
        if isinstance(view, ItemView):
            now = await self._patiently(lambda: self._records.item(view.uid))
        else:
            now = await self._patiently(lambda: self._records.group(view.gid))
        return now is None or now.ended

    async def _ends(self, view: GroupView | ItemView, told: set[str]) -> list[StreamEvent]:
        """The ends that the records show and no event has told."""
        if isinstance(view, ItemView):
            item = await self._patiently(lambda: self._records.item(view.uid))
            items = [item] if item is not None else []
        else:
            items = await self._patiently(lambda: self._records.all_members(view.gid))
        new = [item for item in items if item.ended and item.id not in told]
        told.update(item.id for item in new)
        return [_job_ended(item) for item in new]

    async def _position(self, stream: str, start: Start) -> str:
        if start == "beginning":
            return "0-0"
        if start != "now":
            return start
        return await self._patiently(lambda: tail(self._blocking, stream))

    async def _follow(self, stream: str, last: str) -> AsyncIterator[list[StreamEvent]]:
        """Pages of events after `last`; an empty one says that the stream was read to its end."""
        while True:
            read = partial(wait_after, self._blocking, stream, last, PAGE, BLOCK_MS)
            rows = await self._patiently(read)
            if rows:
                last = rows[-1][0]
            yield [_event(entry, fields) for entry, fields in rows]

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Reads only, so asking again after a lost connection changes nothing."""
        failures = 0
        began = time.monotonic()
        while True:
            try:
                answer = await call()
            except CONNECTION_FAULTS as error:
                if self._patience_s is not None and time.monotonic() - began > self._patience_s:
                    raise
                if failures == 0:
                    self._on_trouble(error)
                await asyncio.sleep(pause_s(failures))
                failures += 1
                continue
            # Python 3.11's wait_for, in redis-py's sends, can swallow a cancellation (python/cpython#86296).
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            return answer


_ENDS = frozenset({"job.succeeded", "job.failed", "job.cancelled", "job.expired"})


def _event(entry: str, fields: dict[bytes, bytes]) -> StreamEvent:
    # Not validated: a newer replica may tell of types and fields that are not known here.
    return _told(fields[b"type"].decode(), orjson.loads(fields[b"data"]), entry)


def _told(type_: Any, data: dict[str, Any], entry: str = "") -> StreamEvent:
    return StreamEvent.model_construct(type=type_, data=data, id=entry)


def _is_about(event: StreamEvent, view: GroupView | ItemView) -> bool:
    data = event.data
    if data.get("tenant") != view.tenant or not event.type.startswith("job."):
        return False
    if isinstance(view, ItemView):
        return data.get("item") == view.id and data.get("batch") == view.batch
    return data.get("job") == view.id and data.get("batch") is None


def _batch_finished(view: GroupView) -> StreamEvent:
    data = {
        "tenant": view.tenant,
        "job": view.id,
        "item": view.id,
        "batch": view.id,
        "state": view.state,
        "counts": view.counts.by_state(),
    }
    return _told("batch.finished", data)


def _job_ended(item: ItemView) -> StreamEvent:
    data = {
        "tenant": item.tenant,
        "job": item.job,
        "item": item.id,
        "batch": item.batch,
        **(item.result or {}),
    }
    if item.state == "failed":
        data["error"] = item.error
    if item.finished_at is not None:
        data["time"] = item.finished_at.isoformat()
    return _told(f"job.{item.state}", data)
