"""Replicas that poll under the limits of one account, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.accounts.feedback import AccountFeedback
from daemon.accounts.routes import Route
from daemon.telemetry.metrics import Metrics
from daemon.worker.polls.pacer import Pacer, Worth
from limiter import Grant, Limiter, Permit, Quota, Recalls, parse_quota
from pixmill.records.keys import Keys
from providers.errors import ProviderError
from tests.daemon.harness import ScriptedProvider, eventually


class Clock:
    """The limiter's time, in µs; sleeping advances it, but not while a request with the old time is under way."""

    def __init__(self) -> None:
        self.now_us = 1_795_000_000_000_000
        self.still = asyncio.Lock()

    def __call__(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        wake_us = self.now_us + math.ceil(seconds * 1e6)
        await asyncio.sleep(0)
        async with self.still:
            self.now_us = max(self.now_us, wake_us)


class Naps(Recalls):
    """Waits by that clock, and hears the bell only where a test passes a message on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(lambda: clock.now_us / 1e6)
        self.nap = clock.sleep

    async def wait(self, longest_s: float) -> None:
        await self.nap(longest_s)


class Counting(Limiter):
    """A limiter that records requests, grants and late reports."""

    def __init__(self, redis: Redis, prefix: str, clock: Clock) -> None:
        super().__init__(redis, prefix, clock=clock)
        self.clock = clock
        self.requested: list[str] = []
        self.granted: list[Permit] = []
        self.late: list[Permit] = []
        self.failing = 0

    async def acquire(self, quotas: Any, **more: Any) -> Any:
        self.requested.append(more["request_id"])
        async with self.clock.still:
            answer = await super().acquire(quotas, **more)
        if self.failing:
            self.failing -= 1
            raise RedisConnectionError("the reply is lost")
        if isinstance(answer, Grant):
            self.granted.append(answer.permit)
        return answer

    async def retime(self, permit: Permit, quotas: Sequence[Quota], *, sent: bool = False) -> bool:
        self.late.append(permit)
        async with self.clock.still:
            return await super().retime(permit, quotas, sent=sent)

    @property
    def sizes(self) -> list[int]:
        """How many polls each permit was for."""
        return [permit.costs["polls"] for permit in self.granted]


class Fleet:
    """Replicas that share one account, in virtual time."""

    def __init__(self, redis: Redis, replicas: int = 1, **quota: Any) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.limiters = [Counting(redis, "pixmill", clock=self.clock) for _ in range(replicas)]
        self.naps = [Naps(self.clock) for _ in self.limiters]
        self.pacers = [
            Pacer(limiter, self.metrics, f"w{number}", naps)
            for number, (limiter, naps) in enumerate(zip(self.limiters, self.naps, strict=True))
        ]
        keys = Keys("pixmill")
        self.accounts = [AccountFeedback(redis, keys, limiter, self.metrics) for limiter in self.limiters]
        self._redis = redis
        quotas = (parse_quota("q", quota),) if quota else ()
        self.route = Route("default", ScriptedProvider(), "model-1", quotas)
        self.left_at_us: list[list[int]] = [[] for _ in self.pacers]

    async def poll(self, replica: int = 0, worth: Worth = lambda: 0.0) -> None:
        turn = await self.pacers[replica].turn(self.route, worth)
        self.left_at_us[replica].append(self.clock.now_us)
        turn.left()

    async def refused_poll(self, error: ProviderError) -> None:
        """The first replica sends a poll that the provider refuses; then the bell reaches all replicas."""
        async with self._redis.pubsub(ignore_subscribe_messages=True) as bell:
            await bell.subscribe("pixmill:bell")
            await bell.get_message(timeout=1)
            turn = await self.pacers[0].turn(self.route)
            turn.left()
            await self.accounts[0].polls_refused(error, self.route, turn.permits, 60)
            while (message := await bell.get_message(timeout=0.05)) is not None:
                for naps in self.naps:
                    naps.note(message["data"].decode())
        self.clock.now_us += 1  # a request from now on is later than the news

    def hold_replies(self, monkeypatch: pytest.MonkeyPatch) -> Replies:
        """Hold back the limiter's replies to the first replica."""
        replies, acquire = Replies(), self.limiters[0].acquire

        async def held(*args: Any, **more: Any) -> Any:
            reply = await acquire(*args, **more)
            replies.came.set()
            await replies.may_come.wait()
            return reply

        monkeypatch.setattr(self.limiters[0], "acquire", held)
        return replies

    async def free(self) -> int:
        """How many polls the account allows now."""
        [state] = await self.limiters[0].snapshot(self.route.quotas)
        return state.units[0].available

    async def is_idle(self) -> None:
        """Wait until nothing requests turns for polls any more."""

        async def idle() -> bool:
            return not any(task.get_name().startswith("polls") for task in asyncio.all_tasks())

        await eventually(idle)


class Replies:
    """When a reply came, and whether it may reach its caller."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.may_come = asyncio.Event()
