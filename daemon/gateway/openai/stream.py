"""Sends pictures as they finish, with a sign of life in between: no proxy cuts a connection that speaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import orjson
from redis.exceptions import RedisError
from starlette.responses import StreamingResponse

from daemon.gateway.openai.fields import Wish
from daemon.gateway.openai.results import Form, facts_of, failure_of, is_over, items_of
from daemon.gateway.openai.route import error_object, restarting
from daemon.gateway.problems import Problem, problem_of
from daemon.queue.records import ItemView, View
from daemon.storage.object_store import StorageError

PING_S: Final = 5.0
LOOK_S: Final = 0.5  # for the next picture of several
OUTAGE_S: Final = (
    60.0  # of Redis; no client repeats a stream by itself, so one that ends early may be paid for twice
)
HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
PING: Final = b": ping\n\n"

Again = Callable[[], Awaitable[View]]


def stream_of(form: Form, wish: Wish, kind: str, again: Again) -> StreamingResponse:
    """The events of a job: `{kind}.completed` for each picture. `again` reads its record."""
    return StreamingResponse(
        _frames(form, wish, kind, again), headers=HEADERS, media_type="text/event-stream"
    )


async def _frames(form: Form, wish: Wish, kind: str, again: Again) -> AsyncIterator[bytes]:
    spoke_at_s = time.monotonic()
    yield PING
    try:
        async for item in _finished(form, again):
            if item is not None:
                event = f"{kind}.completed"
                async with form.here.memory.hold(form.bytes_of([item])):
                    body = await form.picture(item)
                    data = {"type": event, **wish.shown, **facts_of(item), **body}
                    yield await asyncio.to_thread(_frame, event, data)
            elif time.monotonic() - spoke_at_s < PING_S:
                continue
            else:
                yield PING
            spoke_at_s = time.monotonic()
    except (Problem, RedisError, OSError, StorageError) as error:
        yield _frame("error", {"type": "error", "error": error_object(problem_of(error))})


async def _finished(form: Form, again: Again) -> AsyncIterator[ItemView | None]:
    """Each picture once it is there, and None after each look without one.

    Raises Problem for a job that ends without a picture, and when this process stops; RedisError, OSError after a long
    outage.
    """
    here, sent = form.here, set[str]()
    seen_at_s = time.monotonic()
    while True:
        try:
            view = await again()
            items = await items_of(here, view)
        except (RedisError, OSError):
            if time.monotonic() - seen_at_s > OUTAGE_S:
                raise
            yield None
            await asyncio.sleep(LOOK_S)
            continue
        seen_at_s = time.monotonic()
        for item in items:
            if item.state == "succeeded" and item.id not in sent:
                sent.add(item.id)
                yield item
        if is_over(view):
            break
        if here.waiting.stopped:
            raise restarting(view.id, form.links.task(view.id))
        yield None
        await here.waiting.for_end(view, LOOK_S)
    if not sent:
        raise failure_of(items)


def _frame(event: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))
