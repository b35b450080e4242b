"""Live events as `text/event-stream`: of a batch, of a job, of an item of a batch, and of all that a tenant has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query

from daemon.gateway.answering.problems import Problem, bad_parameter
from daemon.gateway.callers.access import Reader
from daemon.gateway.events.frames import START, Position, Topic, position_of
from daemon.gateway.events.response import SseResponse
from daemon.gateway.events.stream import Ending, EventStream, Listening
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.work.finding import find_batch, find_item, find_job
from pixmill.contract import FINAL_STATES
from pixmill.records.views import ItemView, View


async def _open(here: Here) -> None:
    here.hub.check()


router = APIRouter(dependencies=[Depends(_open)])

_ENDS_OF_JOBS = frozenset(f"job.{state}" for state in FINAL_STATES)
_ENDS_OF_BATCHES = frozenset({"batch.finished"})
_CLOCKS_MS = 1000  # a record and its events are of one step; their clocks may differ a little


async def _position(
    after: Annotated[str | None, Query()] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Position | None:
    """The position that a listener knows. An EventSource repeats its address, so its header is newer than `after`."""
    field, text = ("Last-Event-ID", last_event_id) if last_event_id else ("after", after)
    if not text:
        return None
    try:
        return position_of(text)
    except ValueError:
        sentence = f"`{field}` must be the id of an event, such as 1790000000000-0."
        raise bad_parameter(field, sentence) from None


Known = Annotated[Position | None, Depends(_position)]


@router.get("/v1/events", response_class=SseResponse, tags=["events"])
async def of_tenant(here: Here, caller: Reader, known: Known, tenant: str | None = None) -> SseResponse:
    """The events of all work of a tenant, and to quotas and routes; without a last id, from now on."""
    topic = Topic(caller.tenant_for(tenant))
    await here.redis.ping()  # other streams read a record first; this one would open while Redis is away
    return _stream(here, Listening(topic, here.keys.events, known, known or START))


@router.get("/v1/batches/{ident}/events", response_class=SseResponse, tags=["batches"])
async def of_batch(
    here: Here, caller: Reader, known: Known, ident: str, tenant: str | None = None
) -> SseResponse:
    """The events of a batch, from its first one or from the last id on, until it ends."""
    owner = caller.tenant_for(tenant)
    return await _until_end(here, Topic(owner, ident), known, partial(find_batch, here, owner, ident))


@router.get("/v1/batches/{batch}/items/{ident}/events", response_class=SseResponse, tags=["batches"])
async def of_item(
    here: Here, caller: Reader, known: Known, batch: str, ident: str, tenant: str | None = None
) -> SseResponse:
    """The events of an item of a batch, until the item ends."""
    owner = caller.tenant_for(tenant)
    find = partial(find_item, here, owner, batch, ident)
    return await _until_end(here, Topic(owner, batch, ident), known, find)


@router.get("/v1/jobs/{ident}/events", response_class=SseResponse, tags=["jobs"])
async def of_job(
    here: Here, caller: Reader, known: Known, ident: str, tenant: str | None = None
) -> SseResponse:
    """The events of a job, until all of its pictures have ended."""
    owner = caller.tenant_for(tenant)
    return await _until_end(here, Topic(owner, "", ident), known, partial(find_job, here, owner, ident))


async def _until_end(
    here: Gateway, topic: Topic, known: Position | None, find: Callable[[], Awaitable[View]]
) -> SseResponse:
    """The events of some work, which `find` finds: from the stream of its batch, or from that of all events."""
    async with here.hub.looks:
        view = await find()
    kinds = _ENDS_OF_JOBS if topic.job else _ENDS_OF_BATCHES
    has_one_end = not topic.job or isinstance(view, ItemView)
    ending = Ending(kinds, has_one_end, _ended(find))
    stream, until = here.keys.batch_events(topic.batch), None
    if not topic.batch:
        stream = here.keys.events
        until = _at(view.finished_at, _CLOCKS_MS) if view.ended and view.finished_at else None
    return _stream(here, Listening(topic, stream, *_since(view, known), ending, view.ended, until))


def _stream(here: Gateway, listening: Listening) -> SseResponse:
    stream = EventStream(here.hub, listening)
    return SseResponse(stream.frames(), write_by=stream.write_by)


def _ended(find: Callable[[], Awaitable[View]]) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        try:
            return (await find()).ended
        except Problem:
            return True  # its record has gone meanwhile

    return ended


def _since(view: View, known: Position | None) -> tuple[Position, Position]:
    """From where a listener of some work reads, and up to where nothing may be gone.

    Without an id that is the time of its acceptance. Anything older belongs to others, and may go with their work.
    """
    began = _at(view.accepted_at, -_CLOCKS_MS)
    if known is None or known < began:
        return began, _at(view.accepted_at, _CLOCKS_MS)
    return known, known


def _at(moment: datetime, more_ms: int) -> Position:
    return max(0, int(moment.timestamp() * 1000) + more_ms), 0
