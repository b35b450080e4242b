"""One refusal, and the whole fleet is silent: over real connections and a real bell, with many permits outstanding."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from redis.asyncio import Redis

from limiter import Grant, Limiter, Penalty, Permit, Quota, Recalls, Window
from limiter.server import text_of
from tests.servers import RedisServer

PREFIX = "silence"
PERIOD_US = 1_500_000  # long enough that a busy machine does not send all calls before the refusal
QUOTA = Quota("api", (Window(32, PERIOD_US),), adaptive=True)
REPLICAS, CALLS_EACH = 8, 8
PAUSE_S = 1.0


@dataclass
class _Replica:
    """One process as the limiter sees it: a connection, a limiter and its recalls."""

    client: Redis
    recalls: Recalls = field(default_factory=Recalls)
    sent: list[tuple[float, Permit]] = field(default_factory=list)
    recalled: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.client, PREFIX)

    async def listen(self, ready: asyncio.Event) -> None:
        async with self.client.pubsub(ignore_subscribe_messages=True) as bell:
            await bell.subscribe(f"{PREFIX}:bell")
            ready.set()
            while True:
                message = await bell.get_message(timeout=5)
                if message is not None:
                    self.recalls.note(text_of(message["data"]))

    async def send(self, name: str) -> None:
        """One call: request a slot, sleep until it, and request another one if it is recalled."""
        for attempt in count():
            requested_at = time.monotonic()
            answer = await self.limiter.acquire(
                [QUOTA], holder=name, request_id=f"{name}-{attempt}", max_wait_s=60
            )
            assert isinstance(answer, Grant)
            slot_at = time.monotonic() + answer.wait_us / 1e6
            if await self.recalls.sleep(answer.permit, requested_at, slot_at):
                self.sent.append((time.monotonic(), answer.permit))
                return
            self.recalled.append(time.monotonic())
            await self.limiter.give_back(answer.permit)


@pytest.fixture
async def replicas(redis: Redis, redis_server: RedisServer) -> AsyncIterator[list[_Replica]]:
    fleet = [_Replica(Redis.from_url(redis_server.url)) for _ in range(REPLICAS)]
    ready = [asyncio.Event() for _ in fleet]
    listening = [
        asyncio.create_task(replica.listen(each)) for replica, each in zip(fleet, ready, strict=True)
    ]
    await asyncio.gather(*(each.wait() for each in ready))
    yield fleet
    for task in listening:
        task.cancel()
    await asyncio.wait(listening)
    for replica in fleet:
        await replica.client.aclose()


async def test_one_refusal_silences_every_holder_until_it_is_over_and_cuts_once(
    replicas: list[_Replica],
) -> None:
    calls = [
        asyncio.create_task(replica.send(f"replica-{number}-{call}"))
        for number, replica in enumerate(replicas)
        for call in range(CALLS_EACH)
    ]
    # Before it was refused a quota that learns spreads its calls over half of its window.
    while sum(len(replica.sent) for replica in replicas) < 12:
        await asyncio.sleep(0.005)
    in_flight = [permit for replica in replicas for _, permit in replica.sent]
    refused_at = time.monotonic()
    penalties: list[Penalty] = await asyncio.gather(
        *(
            replicas[number % REPLICAS].limiter.penalise(
                QUOTA, reason="429", retry_after_s=PAUSE_S, permit=permit
            )
            for number, permit in enumerate(in_flight)
        )
    )
    reported_at = time.monotonic()
    assert [penalty.cut for penalty in penalties].count(True) == 1
    assert {penalty.generation for penalty in penalties} == {1}
    assert [penalty.scale is not None for penalty in penalties].count(True) == 1
    await asyncio.gather(*calls)

    sent = sorted(at for replica in replicas for at, _ in replica.sent)
    recalled = [at for replica in replicas for at in replica.recalled]
    assert len(sent) == REPLICAS * CALLS_EACH
    assert len(recalled) >= 40, "most of them slept until their slots"
    assert max(recalled[:40]) - reported_at < 0.25
    assert [at for at in sent if reported_at + 0.05 < at < refused_at + PAUSE_S] == []
    [state] = await replicas[0].limiter.snapshot([QUOTA])
    assert state.cooldown_generation == 1
    # And then not all at once: no more than a window of them in any window.
    slots = sorted(permit.slot_us for replica in replicas for _, permit in replica.sent)
    later = [slot for slot in slots if slot > slots[len(in_flight)] - 1]
    assert all(last - first >= PERIOD_US + 5000 for first, last in zip(later, later[32:], strict=False))
    assert all(after > before for before, after in itertools.pairwise(later[:17]))
