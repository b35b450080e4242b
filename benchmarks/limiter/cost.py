"""The server's own time for one acquire.lua: at a full window or without a free place, and with sixteen waiting."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any

import redis.asyncio

from limiter import Grant, Later, Limiter, Permit, parse_quota
from tests.servers import RedisServer

WAITING = 16
COUNT = 2000
PLACES = 256
# A bound on the worst common case: the server does nothing else meanwhile.
MOST_US = 1000
QUOTAS: dict[str, dict[str, object]] = {
    "a window of 2,000": {"requests": f"{COUNT}/min"},
    "two of them": {"requests": f"{COUNT}/min", "images": f"{COUNT}/min"},
    "one that learns": {"requests": f"{COUNT}/min", "adaptive": True},
    "a bucket": {"requests": {"rate": f"{COUNT}/min", "burst": 50}},
}


async def costs(questions: int) -> dict[str, dict[str, float]]:
    """For each of QUOTAS the median and the 99th percentile in µs, as the server measures commands."""
    server = await asyncio.to_thread(RedisServer)
    client = redis.asyncio.Redis.from_url(server.url)
    try:
        measured = {name: await _cost(client, spec, questions) for name, spec in QUOTAS.items()}
        return measured | {f"{PLACES} places": await _cost_of_places(client, questions)}
    finally:
        await client.aclose()
        server.close()


async def _cost(client: redis.asyncio.Redis, spec: dict[str, object], questions: int) -> dict[str, float]:
    await client.flushall()
    quota = parse_quota("api", spec)
    now_us = 1_795_000_000_000_000
    limiter = Limiter(client, "bench", clock=lambda: now_us)
    numbers = itertools.count()

    async def ask() -> tuple[int, Permit]:
        number = next(numbers)
        holder = f"holder-{number % WAITING}"
        answer = await limiter.acquire([quota], holder=holder, request_id=str(number), max_wait_s=1e6)
        assert isinstance(answer, Grant)
        return now_us + answer.wait_us, answer.permit

    for _ in range(COUNT):
        await ask()
        now_us += 60_000_000 // COUNT
    await client.config_resetstat()
    waiting: list[tuple[int, Permit]] = []
    for question in range(questions):
        waiting.append(await ask())
        if question % 10 == 9:  # a gap, which the next one fills
            await limiter.give_back(waiting.pop(WAITING // 2)[1])
        if len(waiting) > WAITING:
            now_us = max(now_us, waiting.pop(0)[0])
    return await _percentiles(client)


async def _cost_of_places(client: redis.asyncio.Redis, questions: int) -> dict[str, float]:
    """All places are taken and all holders stand in line; each question ends a call and requests the next one."""
    await client.flushall()
    quota = parse_quota("api", {"in_flight": PLACES})
    limiter = Limiter(client, "bench", lease_s=3600)
    numbers = itertools.count()

    async def ask(holder: str, *ended: Permit) -> Grant | Later:
        request_id = str(next(numbers))
        return await limiter.acquire(
            [quota], holder=holder, request_id=request_id, max_wait_s=0, more=True, ended=ended
        )

    holders = [f"holder-{number}" for number in range(WAITING)]
    held: deque[Permit] = deque()
    for holder in holders * (PLACES // WAITING):
        answer = await ask(holder)
        assert isinstance(answer, Grant)
        held.append(answer.permit)
    await asyncio.gather(*map(ask, holders))
    await client.config_resetstat()
    for _ in range(questions):
        ended = held.popleft()
        answer = await ask(ended.holder, ended)
        assert isinstance(answer, Grant), "all have as many places, so the holder gets its place back"
        held.append(answer.permit)
    return await _percentiles(client)


async def _percentiles(client: redis.asyncio.Redis) -> dict[str, float]:
    stats: dict[str, Any] = await client.info("latencystats")
    percentiles: dict[str, float] = stats["latency_percentiles_usec_evalsha"]
    return {"p50_us": percentiles["p50"], "p99_us": percentiles["p99"]}


def sentence(measured: dict[str, dict[str, float]]) -> str:
    """A line for the table's end."""
    each = ", ".join(f"{name} {cost['p50_us']:.0f} / {cost['p99_us']:.0f}" for name, cost in measured.items())
    return f"µs of the server for one acquire, p50 / p99 (<= {MOST_US}), {WAITING} waiting: {each}"
