"""Typed calls on the outbox: the messages that callbacks are made of, from the event to their delivery.

Messages get there inside the scripts that publish the events. Errors: whatever the Redis client raises; each call may
be made again safely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import orjson
from redis.asyncio import Redis

from daemon.queue.steps import Steps

Tried = Literal["delivered", "retry", "postponed", "failed", "gone"]


class Message(NamedTuple):
    """A message that is this replica's until its lease ends. `attempts` are the tries that failed so far."""

    id: str
    taken: str
    url: str
    secret: str
    body: bytes
    attempts: int


class Taken(NamedTuple):
    """`next_s` until another one is due (None: there is none), and how many were given up without a try."""

    next_s: float | None
    given_up: int
    messages: list[Message]


class Outbox:
    """The outbox of one installation."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._call = Steps(client, prefix)

    async def take(self, most: int, *, lease_s: float) -> Taken:
        """Messages that are due, for this caller alone until the lease ends."""
        wait_us, given_up, rows = await self._call("outbox_take", most=most, lease_us=round(lease_s * 1e6))
        wait = int(wait_us)
        return Taken(None if wait < 0 else wait / 1e6, given_up, [_message(row) for row in rows])

    async def settle(
        self,
        message: Message,
        tried: Tried,
        *,
        delay_s: float = 0.0,
        error: Mapping[str, object] | None = None,
    ) -> bool:
        """Write down what a try came to; False when the message was somebody else's by then."""
        given = {"id": message.id, "taken": message.taken, "outcome": tried, "delay_us": round(delay_s * 1e6)}
        return bool(await self._call("outbox_settle", **given, error=error and orjson.dumps(error)))

    async def again(self, ident: str, dead_letter: str) -> bool:
        """Send a message again that was given up, and take its dead letter off; False when its content has ended."""
        return bool(await self._call("outbox_again", id=ident, letter=dead_letter))


def _message(row: list[bytes]) -> Message:
    ident, taken, url, secret, body, attempts = row
    return Message(ident.decode(), taken.decode(), url.decode(), secret.decode(), body, int(attempts))
