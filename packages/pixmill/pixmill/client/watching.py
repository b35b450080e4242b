"""Follows the events of one batch or job until it has ended, over lost connections too.

The record is the truth; an event is only a reason to read it. An end without an event (a trimmed stream, a job
that ended before the watch began) is reported from the record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

import orjson
from redis.asyncio import Redis

from pixmill.broker.backoff import pause_s
from pixmill.broker.errors import CONNECTION_FAULTS
from pixmill.broker.streams import tail, wait_after
from pixmill.contract import FINAL_STATES, Event
from pixmill.records.keys import Keys
from pixmill.records.records import GroupView, ItemView, Records

BLOCK_MS = 1000  # also how long an end without an event stays unnoticed
PAGE = 500

ENDS = frozenset(f"job.{state}" for state in FINAL_STATES)

T = TypeVar("T")
Start = Literal["beginning", "now"] | str


class StreamEvent(Event):
    """An event with its place in the stream, where a later watch can go on; '' for one from a record."""

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
                    # A replica may publish its last counts late.
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
        in_batch = isinstance(view, ItemView) and view.batch
        stream = self._keys.batch_events(in_batch) if in_batch else self._keys.events
        reported: set[str] = set()  # items whose end was reported
        checked_at = float("-inf")
        page: list[StreamEvent] = []
        pages = self._follow(stream, await self._position(stream, start))
        while True:
            mine = [event for event in page if _is_about(event, view)]
            for event in mine:
                if event.type == "job.queued":
                    reported.discard(event.data["item"])
                elif event.type in ENDS:
                    if event.data["item"] in reported:
                        continue
                    reported.add(event.data["item"])
                yield event
            # On a busy stream no page is ever empty, so time alone is a reason to look at the record as well.
            if not page or mine or time.monotonic() - checked_at > BLOCK_MS / 1000:
                checked_at = time.monotonic()
                ended, items = await self._now(view)
                for item in items:
                    if item.ended and item.id not in reported:
                        reported.add(item.id)
                        yield _job_ended(item)
                if ended:
                    return
            page = await anext(pages)

    async def _now(self, view: GroupView | ItemView) -> tuple[bool, list[ItemView]]:
        """Whether the job has ended, and the records of its items."""
        if isinstance(view, ItemView):
            item = await self._patiently(lambda: self._records.item(view.uid))
            return (item.ended, [item]) if item is not None else (True, [])
        group = await self._patiently(lambda: self._records.group(view.gid))
        items = await self._patiently(lambda: self._records.all_members(view.gid))
        return group is None or group.ended, items

    async def _position(self, stream: str, start: Start) -> str:
        if start == "beginning":
            return "0-0"
        if start != "now":
            return start
        return await self._patiently(lambda: tail(self._blocking, stream))

    async def _follow(self, stream: str, last: str) -> AsyncIterator[list[StreamEvent]]:
        """Pages of events after `last`; an empty one means that the stream was read to its end."""
        while True:
            read = partial(wait_after, self._blocking, stream, last, PAGE, BLOCK_MS)
            rows = await self._patiently(read)
            if rows:
                last = rows[-1][0]
            yield [_event(entry, fields) for entry, fields in rows]

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a read, which is repeated after a lost connection."""
        failures = 0
        began = time.monotonic()
        while True:
            try:
                result = await call()
            except CONNECTION_FAULTS as error:
                if self._patience_s is not None and time.monotonic() - began > self._patience_s:
                    raise
                if failures == 0:
                    self._on_trouble(error)
                await asyncio.sleep(pause_s(failures))
                failures += 1
                continue
            # A library may have swallowed a cancellation: this loop would never end.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            return result


def _event(entry: str, fields: dict[bytes, bytes]) -> StreamEvent:
    return _made(fields[b"type"].decode(), orjson.loads(fields[b"data"]), entry)


def _made(type_: Any, data: dict[str, Any], entry: str = "") -> StreamEvent:
    # Not validated: a newer replica may publish types and fields that are not known here.
    return StreamEvent.model_construct(type=type_, data=data, id=entry)


def _is_about(event: StreamEvent, view: GroupView | ItemView) -> bool:
    data = event.data
    if data.get("tenant") != view.tenant or not event.type.startswith("job."):
        return False
    if isinstance(view, ItemView):
        return data.get("item") == view.id and data.get("batch") == view.batch
    return data.get("job") == view.id and data.get("batch") is None


def _batch_finished(view: GroupView) -> StreamEvent:
    names = dict.fromkeys(("job", "item", "batch"), view.id)
    counts = view.counts.by_state()
    return _made("batch.finished", {"tenant": view.tenant, **names, "state": view.state, "counts": counts})


def _job_ended(item: ItemView) -> StreamEvent:
    names = {"tenant": item.tenant, "job": item.job, "item": item.id, "batch": item.batch}
    data = {**names, **(item.result or {})}
    if item.state == "failed":
        data["error"] = item.error
    if item.finished_at is not None:
        data["time"] = item.finished_at.isoformat()
    return _made(f"job.{item.state}", data)
