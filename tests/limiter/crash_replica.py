"""One replica as a process of its own, for tests that kill and stop it: `python -m tests.limiter.crash_replica`.

It requests permits of every weight. Before each call it reports the call's longest time to the limiter, and notes the
permit for other replicas. After the call it releases twice. Now and then it stops itself with SIGSTOP, either with an
unused permit or during a call. It also takes over the calls of replicas that the test has declared dead.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from itertools import count

from redis.asyncio import Redis

from limiter import Grant, Limiter, Permit, parse_quota
from limiter.server import text_of

QUOTA = parse_quota("provider", {"in_flight": {"images": 5}})
PREFIX = "crashes"
OPEN, DEAD, NOTES = f"{PREFIX}:open", f"{PREFIX}:dead", f"{PREFIX}:notes"
LEASE_S = 0.3
SHORTEST_S, LONGEST_S = 0.2, 0.7
# As reported to the limiter: the moments between its reply and the answer of the provider are part of the call.
TOLD_S = LONGEST_S + 0.3


class Replica:
    """`stops`: whether it stops itself; the test lets it go on later."""

    def __init__(self, url: str, port: int, name: str, *, stops: bool) -> None:
        self.redis = Redis.from_url(url)
        self.limiter = Limiter(self.redis, PREFIX, lease_s=LEASE_S)
        self.port = port
        self.name = name
        self.stops = stops
        self.draw = random.Random(name)
        self.numbers = count()
        self.held: dict[str, Permit] = {}
        self.followers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        await asyncio.gather(self.heartbeat(), self.adopt(), *(self.work() for _ in range(3)))

    async def heartbeat(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            await self.limiter.renew(list(self.held.values()))

    async def work(self) -> None:
        while True:
            requested_at = time.monotonic()
            task = f"{self.name}-{next(self.numbers)}"
            weight = self.draw.choice([1, 1, 2, 3])
            answer = await self.limiter.acquire(
                [QUOTA], costs={"images": weight}, holder=self.name, request_id=task, max_wait_s=0
            )
            if not isinstance(answer, Grant):
                await asyncio.sleep(min(answer.retry_us / 1e6, 0.03))
                continue
            await self.call(task, weight, answer.permit, requested_at)

    async def call(self, task: str, weight: int, permit: Permit, requested_at: float) -> None:
        self.held[task] = permit
        await self.maybe_stop("unused", 0.2)
        await self.limiter.submitted(permit, longest_s=TOLD_S)
        await self.redis.hset(OPEN, f"{self.name} {task}", permit.to_json())
        if time.monotonic() - requested_at > LEASE_S / 2:
            # It slept so long that another call may have its place.
            await self.redis.hdel(OPEN, f"{self.name} {task}")
            await self.limiter.give_back(self.held.pop(task))
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"start {task} {weight} {self.draw.uniform(SHORTEST_S, LONGEST_S)}\n".encode())
        await reader.readline()
        await self.maybe_stop("running", 0.2)
        await reader.readline()
        writer.close()
        await self.ended(self.name, task, self.held.pop(task))

    async def adopt(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            for owner in await self.redis.smembers(DEAD):
                for field, text in (await self.redis.hgetall(OPEN)).items():
                    name, task = text_of(field).split()
                    if name == text_of(owner) and await self.redis.hdel(OPEN, field):
                        follower = asyncio.create_task(self.follow(name, task, Permit.from_json(text)))
                        # The loop keeps no task alive that waits for a stream: one without an owner is collected.
                        self.followers.add(follower)
                        follower.add_done_callback(self.followers.discard)

    async def follow(self, owner: str, task: str, permit: Permit) -> None:
        self.held[task] = permit
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"wait {task}\n".encode())
        if await reader.readline() == b"ended\n":
            await self.redis.hincrby(NOTES, "adopted", 1)
            await self.ended(owner, task, self.held.pop(task))
        else:
            del self.held[task]  # it was never started; its lease ends by itself
        writer.close()

    async def ended(self, owner: str, task: str, permit: Permit) -> None:
        await self.redis.hdel(OPEN, f"{owner} {task}")
        for _ in range(2):
            await self.limiter.release(permit)

    async def maybe_stop(self, note: str, chance: float) -> None:
        if self.stops and self.draw.random() < chance:
            await self.redis.hincrby(NOTES, note, 1)
            os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    url, port, name, stops = sys.argv[1:]
    asyncio.run(Replica(url, int(port), name, stops=stops == "stops").run())
