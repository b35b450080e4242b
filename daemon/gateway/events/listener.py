"""Those that the hub hands events to: a listener, which gets each frame, and a waiter, which only looks again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from daemon.gateway.events.frames import Burst, Event, Position, Topic

QUEUE = 256  # events that may wait for one listener
LOOK_AGAIN_S = (
    2.0,
    4.0,
)  # drawn for each wait, so that those who wait for one event do not all look together


class Subscriber(Protocol):
    """Never waits: the hub calls it for each read that has events of its topic."""

    topic: Topic

    def put(self, burst: Burst) -> None: ...
    def lose(self, position: Position) -> None: ...
    def close(self) -> None: ...


class _Wakes:
    """One coroutine waits, and anybody wakes it; a future a wait is all that it costs."""

    __slots__ = ("_waiter", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._waiter: asyncio.Future[None] | None = None

    def close(self) -> None:
        """The gateway stops: whoever waits goes on."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _woken(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Listener(_Wakes):
    """The events of one topic that wait to be sent. If too many wait, all of them are dropped and `lost_at` is set."""

    __slots__ = ("_at_once", "_events", "lost_at", "task", "topic")

    def __init__(self, topic: Topic) -> None:
        super().__init__()
        self.topic = topic
        self.task = asyncio.current_task()
        self.lost_at: Position | None = None  # the newest position of which events were dropped
        self._events: list[Event] = []
        self._at_once: Callable[[Burst], bool] | None = None

    def put(self, burst: Burst) -> None:
        if self._at_once is not None and not self._events and self.lost_at is None and self._at_once(burst):
            return
        room = QUEUE - len(self._events)
        if room < len(burst.events):
            self.lose(burst.events[room].id)
            self._events += burst.events[room + 1 :]
        else:
            self._events += burst.events
        self._wake()

    def lose(self, position: Position) -> None:
        """Drop what waits; everything up to `position` is lost for this listener."""
        self._events.clear()
        self.lost_at = position
        self._wake()

    def restart(self) -> None:
        """Forget what waits and what was lost, since it is about to be read from Redis."""
        self._events.clear()
        self.lost_at = None

    async def take(self, at_once: Callable[[Burst], bool] | None = None) -> list[Event]:
        """All events that wait, once there is one, or something was lost, or the gateway stops.

        While none waits, `at_once` gets what comes, without a turn of this task. A burst waits if it returns False.
        """
        self._at_once = at_once
        try:
            while not (self._events or self.lost_at or self.closed):
                await self._woken()
        finally:
            self._at_once = None
        taken, self._events = self._events, []
        return taken

    async def pause(self, seconds: float) -> None:
        """Wait without an eye on events, but no longer than until the gateway stops."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not self.closed and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await _within(self._woken(), left)


class Changes(_Wakes):
    """A waiter for the events of one topic; `kinds` are those that it waits for, None all of them."""

    __slots__ = ("_has_changed", "_kinds", "topic")

    def __init__(self, topic: Topic, kinds: Collection[str] | None) -> None:
        super().__init__()
        self.topic = topic
        self._kinds = kinds
        self._has_changed = False

    def put(self, burst: Burst) -> None:
        if self._kinds is None or not burst.kinds.isdisjoint(self._kinds):
            self._has_changed = True
            self._wake()

    def lose(self, _: Position) -> None:
        self._has_changed = True
        self._wake()

    async def next(self, timeout_s: float) -> bool:
        """Wait for the next event; True: look again, False: `timeout_s` is over, or the gateway stops.

        An event since the last call counts, so a caller that looks at its record between two calls misses nothing.
        True comes at the latest after some seconds, should an event be lost.
        """
        look_s = random.uniform(*LOOK_AGAIN_S)  # noqa: S311 - jitter, no secret
        if not (self._has_changed or self.closed) and timeout_s > 0:
            await _within(self._woken(), min(timeout_s, look_s))
        has_changed, self._has_changed = self._has_changed, False
        return not self.closed and (has_changed or look_s < timeout_s)


async def _within(wait: Coroutine[Any, Any, None], seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wait
