"""Reads the stream of all events once, and gives each event to the listeners that it concerns.

The reader keeps the id of its last event. So an outage of Redis costs no event, unless Redis itself has lost some.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon.broker.loops import run_forever, wait_for_event
from daemon.gateway.answering.problems import Problem
from daemon.gateway.events.frames import Burst, Event, Position, Topic, event_of, position_of, text_of
from daemon.gateway.events.listener import Changes, Listener, Subscriber
from daemon.gateway.events.replay import has_lost, state_of
from daemon.telemetry.http_metrics import HttpMetrics
from pixmill.broker.errors import in_words
from pixmill.broker.streams import tail, wait_after
from pixmill.records.keys import Keys

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=Subscriber)

# Events a read: fewer than a listener's queue holds, since listeners send between two reads.
PAGE = 100
BLOCK_MS = 5000
# Between two reads while nobody listens: each read wakes this process, and a busy fleet has an event at any moment.
UNHEARD_S = 0.1
LONGEST_PAUSE_S = 0.5  # between two tries while Redis is away
# At once, by all listeners: each needs a connection, and a page is held in memory.
READS = 16
LOOKS = 16
CLOSING_S = 0.3  # for listeners to end by themselves, when the gateway stops


class EventHub:
    """One reader for all listeners of this process. `blocking` is a client of its own for the blocking read."""

    def __init__(self, client: Redis, blocking: Redis, keys: Keys, metrics: HttpMetrics) -> None:
        self.client = client
        self.keys = keys
        self.reads = asyncio.Semaphore(READS)  # of what is past
        self.looks = asyncio.Semaphore(LOOKS)  # at the record of what a new listener names
        self.trouble: str | None = "The stream of events has not been read yet."  # why no events are read now
        self._blocking = blocking
        self._metrics = metrics
        self.position: Position | None = None  # all events up to this one were given out
        self._was_away = False
        self._subscribers: dict[Topic, set[Subscriber]] = {}
        self._listeners: set[Listener] = set()
        self._reader: asyncio.Task[None] | None = None
        self.stopping = False
        self._empty = asyncio.Event()
        self._heard = asyncio.Event()  # somebody listens

    async def start(self) -> None:
        """Begin to read from the stream's present end; while Redis is away, `trouble` has the reason."""
        with suppress(RedisError, OSError):
            await self._begin()
        self._reader = asyncio.create_task(
            run_forever("events", self._step, longest_pause_s=LONGEST_PAUSE_S), name="events"
        )

    async def stop(self) -> None:
        """Stop reading, and end every listener and every wait, within a second."""
        self.stopping = True
        for subscriber in self._everybody():
            subscriber.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader], timeout=CLOSING_S)
        if self._listeners:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    await self._empty.wait()
        for listener in self._listeners:  # their clients read nothing, so their last frames cannot be sent
            if listener.task is not None:
                listener.task.cancel()

    def check(self) -> None:
        """Raises Problem 503 while no listener can be served: this gateway stops, or has not reached Redis yet."""
        if self.stopping:
            raise Problem(503, "stopping", "This gateway stops; connect again.", retry_after_s=1)
        if self.position is None:
            raise Problem(503, "redis_unavailable", self.trouble or "", retry_after_s=1)

    @contextmanager
    def listen(self, topic: Topic) -> Iterator[Listener]:
        """A listener that gets every event of `topic` after the present `position`."""
        listener = Listener(topic)
        self._listeners.add(listener)
        self._empty.clear()
        self._metrics.http_listeners.inc()
        try:
            with self._subscribed(listener):
                yield listener
        finally:
            self._listeners.discard(listener)
            self._metrics.http_listeners.dec()
            if not self._listeners:
                self._empty.set()

    @asynccontextmanager
    async def changes(self, topic: Topic, kinds: Collection[str] | None = None) -> AsyncIterator[Changes]:
        """A waiter for changes of a topic.

            async with hub.changes(Topic(tenant, "", ident)) as changes:
                while not (view := await look()).ended and await changes.next(deadline - now()):
                    pass

        `kinds` leaves out other events: who waits for the end of a batch names `batch.finished`.
        """
        with self._subscribed(Changes(topic, kinds)) as waiter:
            yield waiter

    @contextmanager
    def _subscribed(self, subscriber: S) -> Iterator[S]:
        self._subscribers.setdefault(subscriber.topic, set()).add(subscriber)
        self._heard.set()
        if self.stopping:
            subscriber.close()
        try:
            yield subscriber
        finally:
            others = self._subscribers[subscriber.topic]
            others.discard(subscriber)
            if not others:
                del self._subscribers[subscriber.topic]
            if not self._subscribers:
                self._heard.clear()

    def count_resync(self) -> None:
        """Count a listener that has lost events."""
        self._metrics.http_resyncs.inc()

    # The reader

    async def _begin(self) -> Position:
        self.position = position_of(await tail(self.client, self.keys.events))
        self.trouble = None
        return self.position

    async def _step(self) -> None:
        try:
            position = self.position or await self._begin()
            if self._was_away:
                position = await self._without_lost(position)
            await self._read(position)
        except (RedisError, OSError) as error:
            self._was_away = True
            self.trouble = in_words(error)
            raise

    async def _read(self, position: Position) -> None:
        entries = await wait_after(self._blocking, self.keys.events, text_of(position), PAGE, BLOCK_MS)
        self.trouble = None
        found: dict[Topic, list[Event]] = {}
        for entry, fields in entries:
            self.position = position_of(entry)
            if (event := event_of(entry, fields)) is not None:
                for topic in self._topics(event):
                    found.setdefault(topic, []).append(event)
        for topic, events in found.items():
            burst = Burst(events)
            for subscriber in self._subscribers[topic]:
                subscriber.put(burst)
        await asyncio.sleep(0)  # so that listeners send before the next read fills their queues
        if len(entries) < PAGE and not self._heard.is_set():
            await wait_for_event(self._heard, UNHEARD_S)

    def _topics(self, event: Event) -> list[Topic]:
        """The topics with subscribers that an event concerns."""
        if event.topics:
            return [topic for topic in event.topics if topic in self._subscribers]
        return [topic for topic in self._subscribers if event.concerns(topic)]

    async def _without_lost(self, position: Position) -> Position:
        """Where to go on after an outage. Redis may have lost events that were given out, or trimmed unseen ones."""
        state = await state_of(self.client, self.keys.events)
        if state.last < position or has_lost(state, position):
            log.warning("redis has lost events; every listener reads everything again")
            position = self.position = state.last
            for subscriber in self._everybody():
                subscriber.lose(position)
        self._was_away = False
        return position

    def _everybody(self) -> list[Subscriber]:
        return [each for found in self._subscribers.values() for each in found]
