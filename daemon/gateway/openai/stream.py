"""Sends pictures as they finish, with a sign of life in between: no proxy cuts a connection that speaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from fastapi import Request
from redis.exceptions import RedisError
from starlette.responses import StreamingResponse

from daemon.gateway.gateway import Gateway
from daemon.gateway.links import Links
from daemon.gateway.openai.fields import Wish
from daemon.gateway.openai.results import failure_of, is_over, items_of, picture
from daemon.gateway.openai.route import error_object
from daemon.gateway.problems import Problem, problem_of
from daemon.queue.records import View
from daemon.storage.object_store import StorageError

PING_S: Final = 5.0
LOOK_S: Final = 0.5  # for the next picture of several
HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
PING: Final = b": ping\n\n"


def stream_of(
    request: Request, here: Gateway, view: View, wish: Wish, kind: str, again: Any
) -> StreamingResponse:
    """The events of a job: `{kind}.completed` for each picture. `again` reads its record."""
    return StreamingResponse(
        _frames(request, here, view, wish, kind, again), headers=HEADERS, media_type="text/event-stream"
    )


async def _frames(
    request: Request, here: Gateway, view: View, wish: Wish, kind: str, again: Any
) -> AsyncIterator[bytes]:
    sent: set[str] = set()
    silent_s = 0.0
    yield PING
    try:
        while True:
            items = await items_of(here, view)
            for item in items:
                if item.state == "succeeded" and item.id not in sent:
                    sent.add(item.id)
                    silent_s = 0.0
                    body = await picture(here, Links(request), item, wish.as_url)
                    facts = {"type": f"{kind}.completed", "created_at": int(item.accepted_at.timestamp())}
                    yield _frame(f"{kind}.completed", {**facts, **wish.shown, **body})
            if is_over(view):
                break
            if here.waiting.stopped:
                yield _error(Problem(503, "restarting", "This server stops; send the request again."))
                return
            await here.waiting.for_end(view, LOOK_S)
            silent_s += LOOK_S
            if silent_s >= PING_S:
                silent_s = 0.0
                yield PING
            view = await again()
        if not sent:
            yield _error(failure_of(items))
    except (Problem, RedisError, OSError, StorageError) as error:
        yield _error(problem_of(error))


def _error(problem: Problem) -> bytes:
    return _frame("error", {"type": "error", "error": error_object(problem)})


def _frame(event: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))
