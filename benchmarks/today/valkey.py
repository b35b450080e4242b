"""A server of Redis for virtual time: a command is over before the clock moves on, and so is the bell that it rings."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import redis


class Valkey:
    """One connection to a real server for a whole fleet. `heard` is called with each message of the bell."""

    def __init__(self, url: str, prefix: str) -> None:
        client: Any = redis.Redis.from_url(url)  # its stubs leave these methods untyped
        self._client = client
        self._channel = f"{prefix}:bell"
        self._bell = client.pubsub(ignore_subscribe_messages=True)
        self._bell.subscribe(self._channel)
        self._marks = count()
        self.heard: Callable[[str], None] = lambda _message: None

    def execute(self, *words: Any) -> Any:
        """Run a command, then pass on what it has published: a mark of our own comes after all of that."""
        mark = f"mark {next(self._marks)}"
        pipe = self._client.pipeline(transaction=False)
        pipe.execute_command(*words)
        pipe.publish(self._channel, mark)
        reply, _ = pipe.execute(raise_on_error=False)
        while (message := self._next()) != mark:
            self.heard(message)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        self._bell.close()
        self._client.close()

    def _next(self) -> str:
        while (message := self._bell.get_message(timeout=10)) is None:
            pass
        data: bytes = message["data"]
        return data.decode()


class Connection:
    """The client of a replica's limiter. A killed replica sends nothing any more."""

    def __init__(self, server: Valkey) -> None:
        self._server = server
        self.is_cut = False

    async def execute_command(self, *words: Any) -> Any:
        """As redis.asyncio.Redis.execute_command."""
        if self.is_cut:
            raise redis.ConnectionError("the replica was killed")
        return self._server.execute(*words)
