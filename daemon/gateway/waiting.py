"""Waits in a request for the end of work. One look at all records serves everybody who waits.

A wait holds no connection to Redis. It ends with the work, with its time, with its client, or with this process.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fastapi import Request
from redis.asyncio import Redis

from daemon.broker.loops import run_forever
from daemon.gateway.problems import bad_parameter
from daemon.queue.keys import Keys
from daemon.queue.views import ItemView, View

LOOK_EVERY_S = 0.1
PAGE = 500  # records a round trip
MOST_WAIT_S = 60

_FIELDS = ("state", "held", "open", "parts_left")
_GOES_ON = frozenset({b"queued", b"throttled", b"retry_wait", b"running"})


class Waiting:
    """Everybody who waits in this process for the end of some work."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}  # by the key of a record
        self._looking: asyncio.Task[None] | None = None
        self.stopped = False  # no wait lasts any more

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    async def for_end(self, view: View, wait_s: float, request: Request | None = None) -> None:
        """Wait until the work has ended, or needs a person, at most for `wait_s`; not at all if the client goes away.

        Read the record again afterwards: it is the truth.
        """
        if self.stopped or wait_s <= 0 or view.ended or view.needs_person:
            return
        over = asyncio.get_running_loop().create_future()
        name = self._name(view)
        self._waiters.setdefault(name, set()).add(over)
        self._look()
        client = None if request is None else asyncio.create_task(_gone(request))
        if client is not None:
            client.add_done_callback(lambda _: _end(over))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await over
        finally:
            if client is not None:
                client.cancel()
            self._leave(name, over)

    async def stop(self) -> None:
        """End every wait; a later one ends at once."""
        self.stopped = True
        for waiters in self._waiters.values():
            for over in waiters:
                _end(over)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def _name(self, view: View) -> str:
        return self._keys.item(str(view.uid)) if isinstance(view, ItemView) else self._keys.group(view.gid)

    def _leave(self, name: str, over: asyncio.Future[None]) -> None:
        self._waiters[name].discard(over)
        if not self._waiters[name]:
            del self._waiters[name]

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            idle = run_forever("waits of requests", self._step, until=lambda: not self._waiters)
            self._looking = asyncio.create_task(idle)

    async def _step(self) -> None:
        names = list(self._waiters)
        for start in range(0, len(names), PAGE):
            await self._end_settled(names[start : start + PAGE])
        await asyncio.sleep(LOOK_EVERY_S)

    async def _end_settled(self, names: Sequence[str]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hmget(name, *_FIELDS)
        for name, fields in zip(names, await pipe.execute(raise_on_error=False), strict=True):
            # A record that cannot be read is for the request to find.
            if isinstance(fields, Exception) or _is_settled(*fields):
                for over in self._waiters.get(name, ()):
                    _end(over)


def _is_settled(
    state: bytes | None, held: bytes | None, left: bytes | None, parts_left: bytes | None
) -> bool:
    """Whether work has ended, has no record any more, or has only items that wait for a person."""
    if state not in _GOES_ON:
        return True
    return int(held or 0) > 0 and held == left and int(parts_left or 0) == 0


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


async def _gone(request: Request) -> None:
    """Return when the client has closed its connection. The body must have been read."""
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await request.receive()


# What a request prefers (RFC 7240)


def preferred_wait_s(request: Request, most_s: int = MOST_WAIT_S) -> int | None:
    """The N of `Prefer: wait=N`, None without it; raises Problem 400 unless it is a number from 0 to `most_s`."""
    given = _preferences(request).get("wait")
    if given is None:
        return None
    if not re.fullmatch(r"\d{1,6}", given, re.ASCII) or int(given) > most_s:
        raise bad_parameter("Prefer", f"`Prefer: wait=N` takes a whole number of seconds from 0 to {most_s}.")
    return int(given)


def prefers_async(request: Request) -> bool:
    """Whether the request has `Prefer: respond-async`."""
    return "respond-async" in _preferences(request)


def _preferences(request: Request) -> dict[str, str]:
    """The preferences by name; the first one of a name counts, and parameters of a preference are left out."""
    found: dict[str, str] = {}
    for text in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = text.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found
