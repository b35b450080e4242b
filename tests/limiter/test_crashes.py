"""Replicas are killed and stopped for longer than a lease while a provider counts what really runs there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import pytest
from redis.asyncio import Redis

from limiter import Grant, Limiter
from tests.limiter.crash_provider import CrashProvider
from tests.limiter.crash_replica import DEAD, LEASE_S, NOTES, PREFIX, QUOTA, TOLD_S
from tests.servers import RedisServer

PLACES = 5
# Each dead holder in line is called once, and places are kept for it for so long.
COMES_S = 0.5


class _Fleet:
    """Replica processes; the second half of them stop themselves now and then."""

    def __init__(self, url: str, port: int) -> None:
        self._url = url
        self._port = port
        self._numbers = count()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.stopped: dict[str, float] = {}

    def start(self, *, stops: bool) -> None:
        name = f"replica-{next(self._numbers)}"
        program = [sys.executable, "-m", "tests.limiter.crash_replica"]
        arguments = [self._url, str(self._port), name, "stops" if stops else "runs"]
        self.processes[name] = subprocess.Popen([*program, *arguments])

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        self.stopped.pop(name, None)
        process.kill()
        process.wait()

    def wake(self, after_s: float) -> None:
        """Note the stopped replicas, and wake those that have been stopped for so long."""
        for name, process in self.processes.items():
            if os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG):
                self.stopped[name] = time.monotonic()
            if time.monotonic() - self.stopped.get(name, time.monotonic()) > after_s:
                del self.stopped[name]
                process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)


@pytest.fixture
async def provider() -> AsyncIterator[tuple[CrashProvider, int]]:
    provider = CrashProvider()
    server = await provider.listen()
    yield provider, server.sockets[0].getsockname()[1]
    server.close()


async def _until(condition: Callable[[], Awaitable[bool]], fleet: _Fleet, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline
        fleet.wake(2 * LEASE_S)
        await asyncio.sleep(0.02)


async def test_kills_and_stops_never_overfill_the_provider_and_free_every_place(
    redis: Redis, redis_server: RedisServer, provider: tuple[CrashProvider, int]
) -> None:
    counts, port = provider
    fleet = _Fleet(redis_server.url, port)
    try:
        for number in range(4):
            fleet.start(stops=number >= 2)
        began = 0
        for kills in range(1, 4):

            async def busy(more: int = began + 6) -> bool:
                return len(counts.tasks) >= more and counts.running >= 3

            await _until(busy, fleet, 20)
            began = len(counts.tasks)
            victim = next(name for name in fleet.processes if name not in fleet.stopped)
            fleet.kill(victim)
            await redis.sadd(DEAD, victim)
            fleet.start(stops=kills % 2 == 0)

        async def all_seen() -> bool:
            notes = await redis.hgetall(NOTES)
            return all(int(notes.get(note, 0)) for note in (b"adopted", b"unused", b"running"))

        await _until(all_seen, fleet, 20)
        assert counts.most == PLACES, "never more than the places, and never fewer when there is work"
        # All die at once, and nobody is left who could adopt what runs.
        orphans = list(fleet.processes)
    finally:
        fleet.close()
    died_at = time.monotonic()
    assert orphans
    limiter = Limiter(redis, PREFIX, lease_s=LEASE_S)
    numbers = count()
    while True:
        answer = await limiter.acquire(
            [QUOTA],
            costs={"images": PLACES},
            holder="heir",
            request_id=f"whole-{next(numbers)}",
            max_wait_s=0,
        )
        if isinstance(answer, Grant):
            break
        await asyncio.sleep(0.02)
    assert counts.running == 0
    assert time.monotonic() - died_at < max(TOLD_S, LEASE_S) + len(orphans) * COMES_S + 0.5
