"""Waits in a request for the end of work: the hub's events say when to look, and the record is the truth.

A wait holds no connection to Redis. It ends with the work, with its time, with its client, or with this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon.gateway.events.frames import Topic
from daemon.gateway.events.hub import EventHub
from pixmill.contract import FINAL_STATES
from pixmill.records.keys import Keys
from pixmill.records.views import ItemView, View

_FIELDS = ("state", "held", "open", "parts_left")
_GOES_ON = frozenset({b"queued", b"throttled", b"retry_wait", b"running"})
_KINDS = frozenset({f"job.{state}" for state in FINAL_STATES} | {"job.held", "batch.finished"})
_OF_BATCHES = frozenset({"job.held", "batch.finished"})


class Waiting:
    """Everybody who waits in this process for the end of some work."""

    def __init__(self, client: Redis, keys: Keys, hub: EventHub) -> None:
        self._client = client
        self._keys = keys
        self._hub = hub
        self._waiters = 0

    @property
    def stopped(self) -> bool:
        """Whether no wait begins or lasts any more: the hub stops."""
        return self._hub.stopping

    def __len__(self) -> int:
        return self._waiters

    async def for_end(self, view: View, wait_s: float, request: Request | None = None) -> None:
        """Wait until the work has ended, or needs a person, at most for `wait_s`; not at all if the client goes away.

        Read the record again afterwards: it is the truth.
        """
        if self.stopped or wait_s <= 0 or view.ended or view.needs_person:
            return
        ends_at = asyncio.get_running_loop().time() + wait_s
        self._waiters += 1
        try:
            async with self._hub.changes(*_ending(view)) as changes:
                with _watched(request, changes.close):
                    while not await self._is_settled(view):
                        if not await changes.next(ends_at - asyncio.get_running_loop().time()):
                            return
        finally:
            self._waiters -= 1

    async def _is_settled(self, view: View) -> bool:
        """Whether it has ended, has no record any more, or needs a person. Nobody knows while Redis is away."""
        name = self._keys.item(str(view.uid)) if isinstance(view, ItemView) else self._keys.group(view.gid)
        try:
            fields: Any = await self._client.hmget(name, *_FIELDS)
        except (RedisError, OSError):
            return False
        state, held, left, parts_left = fields
        if state not in _GOES_ON:
            return True
        return int(held or 0) > 0 and held == left and int(parts_left or 0) == 0


def _ending(view: View) -> tuple[Topic, frozenset[str]]:
    """The topic and the kinds of events that may be the end of some work."""
    if isinstance(view, ItemView):
        return Topic(view.tenant, view.batch or "", view.id), _KINDS
    if view.kind == "batch":
        return Topic(view.tenant, view.id), _OF_BATCHES
    return Topic(view.tenant, "", view.id), _KINDS


@contextmanager
def _watched(request: Request | None, on_gone: Callable[[], None]) -> Iterator[None]:
    """Call `on_gone` when the request's client closes its connection."""
    if request is None:
        yield
        return
    client = asyncio.create_task(_gone(request))
    client.add_done_callback(lambda _: on_gone())
    try:
        yield
    finally:
        client.cancel()


async def _gone(request: Request) -> None:
    """Return when the client has closed its connection. The body must have been read."""
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await request.receive()
