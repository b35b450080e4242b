"""Typed calls on the outbox, which keeps callback messages from their event until their delivery.

The scripts that publish events also write the messages. Errors: those of the Redis client; each call may be repeated
safely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import orjson
from redis.asyncio import Redis

from daemon.queue.steps import Steps

Tried = Literal["delivered", "retry", "postponed", "failed", "gone"]


class Message(NamedTuple):
    """A message that this replica owns until its lease ends. `attempts` are the failed tries so far."""

    id: str
    taken: str
    url: str
    secret: str
    body: bytes
    attempts: int


class Taken(NamedTuple):
    """The messages, the seconds until another one is due (None: there is none), and how many were given up untried."""

    next_s: float | None
    given_up: int
    messages: list[Message]


class Outbox:
    """The outbox of one installation."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._call = Steps(client, prefix)

    async def take(self, most: int, *, lease_s: float) -> Taken:
        """Take due messages; no other replica gets them until the lease ends."""
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
        """Record the result of a try; False if another replica owned the message by then."""
        given = {"id": message.id, "taken": message.taken, "outcome": tried, "delay_us": round(delay_s * 1e6)}
        return bool(await self._call("outbox_settle", **given, error=error and orjson.dumps(error)))

    async def again(self, ident: str, dead_letter: str) -> bool:
        """Make a given-up message due again and remove its dead letter; False if its content has ended."""
        return bool(await self._call("outbox_again", id=ident, letter=dead_letter))


def _message(row: list[bytes]) -> Message:
    ident, taken, url, secret, body, attempts = row
    return Message(ident.decode(), taken.decode(), url.decode(), secret.decode(), body, int(attempts))
