"""A clock for the queue's scripts that only the test moves.

The scripts read the server's clock in one line of `include/base.lua`; here that line reads a key instead. Times to live
and the idle times of pending entries stay the server's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.queue import steps
from limiter.script import LuaScript

KEY = "test:clock"
READS_SERVER = "local clock = redis.call('TIME')"
READS_KEY = f"local clock = redis.call('HMGET', '{KEY}', 's', 'us')"


def use_virtual_time(patch: pytest.MonkeyPatch) -> None:
    """Let every script that reads the server's clock read the virtual one, until the patch is undone."""
    for name, script in list(steps._SCRIPTS.items()):
        if READS_SERVER in script.source:
            source = script.source.replace(READS_SERVER, READS_KEY)
            patch.setitem(steps._SCRIPTS, name, LuaScript(name, source))


class VirtualTime:
    """The time that the scripts read, in µs."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self.now_us = 1_795_000_000_000_003

    async def advance(self, us: int = 0) -> None:
        self.now_us += us
        await self._redis.hset(KEY, mapping={"s": self.now_us // 1_000_000, "us": self.now_us % 1_000_000})

    def at(self, seconds: float) -> str:
        """The moment so many seconds from now, as producers write it."""
        return rfc3339(self.now_us + round(seconds * 1e6))


def rfc3339(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="microseconds")
