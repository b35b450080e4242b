"""Reads the stream of all events once, and gives each event to the listeners that it concerns."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.queue.keys import Keys
from daemon.telemetry.http_metrics import HttpMetrics


class EventHub:
    """One reader for all listeners of this process. `blocking` is a client of its own for the blocking read."""

    def __init__(self, client: Redis, blocking: Redis, keys: Keys, metrics: HttpMetrics) -> None:
        self._client = client
        self._blocking = blocking
        self._keys = keys
        self._metrics = metrics
        self.trouble: str | None = None  # the reason why no events are read now, as a sentence

    async def start(self) -> None:
        """Begin to read from the stream's present end."""

    async def stop(self) -> None:
        """Stop reading, and end every listener."""
