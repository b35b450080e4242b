"""Sends pictures as they finish, with a sign of life in between: no proxy cuts a connection that speaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final

from redis.exceptions import RedisError

from daemon.gateway.answering.problems import Problem, problem_of
from daemon.gateway.events.frames import PING, frame_of
from daemon.gateway.events.response import SseResponse
from daemon.gateway.openai.fields import Wish
from daemon.gateway.openai.results import Form, facts_of, failure_of, is_over
from daemon.gateway.openai.route import error_object, still_running
from daemon.gateway.work.finding import items_of
from daemon.storage.object_store import StorageError
from pixmill.records.records import ItemView, View

PING_S: Final = 5.0
LOOK_S: Final = 0.5  # for the next picture of several
LOOK_AGAIN_S: Final = 5.0  # for a single one, whose end is an event
OUTAGE_S: Final = (
    60.0  # of Redis; no client repeats a stream by itself, so one that ends early may be paid for twice
)
# A comment, as no SDK knows an event for it, and an error would cost the pictures that were made.
FAILED: Final = b": x-pixmill-failed: %d\n\n"

Again = Callable[[], Awaitable[View]]


def stream_of(form: Form, wish: Wish, kind: str, ident: str, again: Again) -> SseResponse:
    """The events of the job `ident`: `{kind}.completed` for each picture. `again` reads its record."""
    return SseResponse(_frames(form, wish, kind, ident, again), ping_s=PING_S)


async def _frames(form: Form, wish: Wish, kind: str, ident: str, again: Again) -> AsyncGenerator[bytes, None]:
    yield PING  # the answer begins at once
    event = f"{kind}.completed"
    try:
        async for item in _finished(form, again):
            if isinstance(item, int):
                yield FAILED % item
                continue
            async with form.here.memory.hold(form.bytes_of([item])):
                body = await form.picture(item)
                data = {"type": event, **wish.shown, **facts_of(item), **body}
                yield await asyncio.to_thread(frame_of, event, data)
    except (Problem, RedisError, OSError, StorageError) as error:
        problem = problem_of(error)
        problem.more["id"] = ident
        yield frame_of("error", {"type": "error", "error": error_object(problem)})


async def _finished(form: Form, again: Again) -> AsyncIterator[ItemView | int]:
    """Each picture once it is there; at the end the number of those that failed, if some did.

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
            if here.waiting.stopped or time.monotonic() - seen_at_s > OUTAGE_S:
                raise
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
            # A stream is repeated by a person, whose request would be new work.
            raise still_running(view.id, form.links.task(view.id))
        await here.waiting.for_end(view, LOOK_AGAIN_S if isinstance(view, ItemView) else LOOK_S)
    if not sent:
        raise failure_of(items)
    if len(sent) < len(items):
        yield len(items) - len(sent)
