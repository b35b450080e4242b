"""A caller is cancelled at any of its awaits: its step has happened once or not at all, never half."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from limiter import CalendarDay, Grant, HeaderReading, InFlight, Limiter, Permit, Quota, Window, parse_quota
from tests.limiter.conftest import Rig

S = 1_000_000
# One book of each kind: a log, slices, a bucket and a day, places, and it learns.
QUOTAS = (
    parse_quota(
        "api", {"requests": ["5/10s", {"rate": "6/10s", "burst": 6}], "in_flight": 4, "adaptive": True}
    ),
    Quota("more", (Window(4000, 10 * S), CalendarDay(9, "UTC"), InFlight(4))),
)
# Each pause of a caller is one pass of its loop at least; an answer of the server needs a few.
MOST_PASSES = 400


class _SlowClient(Redis):
    """Lets the loop of the caller run before a command is sent and after it was answered, so both can be cancelled."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        for _ in range(3):
            await asyncio.sleep(0)
        answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # so in redis-py
        for _ in range(3):
            await asyncio.sleep(0)
        return answer


_Step = Callable[[Limiter, Permit], Awaitable[object]]
STEPS: dict[str, _Step] = {
    "give_back": lambda limiter, permit: limiter.give_back(permit),
    "release": lambda limiter, permit: limiter.release(permit),
    "submitted": lambda limiter, permit: limiter.submitted(permit, longest_s=300),
    "renew": lambda limiter, permit: limiter.renew([permit]),
    "retime": lambda limiter, permit: limiter.retime(permit, QUOTAS),
    "penalise": lambda limiter, permit: limiter.penalise(
        QUOTAS[0], reason="429", retry_after_s=3, permit=permit
    ),
    "concurrency": lambda limiter, permit: limiter.penalise(
        QUOTAS[0], reason="429", kind="concurrency", permit=permit
    ),
    "exhausted": lambda limiter, permit: limiter.exhausted(QUOTAS[0], reason="402", retry_after_s=60),
    "observe": lambda limiter, permit: limiter.observe(QUOTAS[0], permit, [HeaderReading(remaining=1)]),
    "pause": lambda limiter, permit: limiter.pause("api", "operator"),
    "resume": lambda limiter, permit: limiter.resume("more"),
    "report_spread": lambda limiter, permit: limiter.report_spread(9_000),
}


async def _state(rig: Rig) -> str:
    """The content of every key, without its time to live."""
    lines = []
    for key in sorted(await rig.client.keys(f"{rig.prefix}*")):
        content: Any
        match await rig.client.type(key):
            case b"zset":
                content = await rig.client.zrange(key, 0, -1, withscores=True)
            case b"hash":
                content = sorted((await rig.client.hgetall(key)).items())
            case _:
                content = await rig.client.get(key)
        lines.append(f"{key!r}: {content!r}")
    return "\n".join(lines).replace(rig.prefix, "PREFIX")


async def _cancelled_after(passes: int, step: Awaitable[object]) -> bool:
    """Run `step` and cancel it after so many passes of the loop; True if it was over before."""
    running = asyncio.ensure_future(step)
    for _ in range(passes):
        if running.done():
            break
        await asyncio.sleep(0)
    over = running.done()
    running.cancel()
    await asyncio.wait([running])
    if over:
        running.result()
    else:
        assert running.cancelled()
    return over


async def _begun(client: Redis) -> tuple[Rig, Permit]:
    """A rig whose books are the same each time, and a permit with something charged in each of them."""
    rig = Rig(client)
    rig.limiter._grant_ids = (f"grant{number}" for number in range(100))
    await rig.permit(*QUOTAS)
    permit = await rig.permit(*QUOTAS)
    await rig.limiter.pause("more", "operator")
    rig.time.advance(2 * S)
    return rig, permit


@pytest.mark.parametrize("name", STEPS)
async def test_a_step_that_has_begun_ends_although_its_caller_is_cancelled(redis: Redis, name: str) -> None:
    rig, permit = await _begun(redis)
    before = await _state(rig)
    await STEPS[name](rig.limiter, permit)
    after = await _state(rig)
    assert before != after
    for passes in range(1, MOST_PASSES):
        rig, permit = await _begun(_SlowClient(connection_pool=redis.connection_pool))
        over = await _cancelled_after(passes, STEPS[name](rig.limiter, permit))
        assert await _state(rig) == after
        if over:
            break
    assert over
    assert passes > 6


async def test_a_cancelled_request_is_charged_nothing_in_any_book(redis: Redis) -> None:
    client = _SlowClient(connection_pool=redis.connection_pool)
    rig = Rig(client)
    await rig.limiter.give_back(await rig.permit(*QUOTAS))
    before = await rig.limiter.snapshot(QUOTAS)
    for passes in range(MOST_PASSES):
        waiting = asyncio.ensure_future(rig.request(*QUOTAS, request_id=f"r{passes}"))
        over = await _cancelled_after(passes, waiting)
        if over:
            answer = waiting.result()
            assert isinstance(answer, Grant)
            await rig.limiter.give_back(answer.permit)
        assert await rig.limiter.snapshot(QUOTAS) == before
        assert await redis.zcard(f"{rig.prefix}:limiter:api:leases") == 0
        if over:
            break
    assert over
    assert passes > 6


@pytest.mark.parametrize("second", range(1, 12))
async def test_a_caller_that_is_cancelled_twice_is_charged_nothing_either(redis: Redis, second: int) -> None:
    rig = Rig(_SlowClient(connection_pool=redis.connection_pool))
    await rig.limiter.give_back(await rig.permit(*QUOTAS))
    before = await rig.limiter.snapshot(QUOTAS)
    waiting = asyncio.ensure_future(rig.request(*QUOTAS))
    await asyncio.sleep(0)
    while not waiting.done():
        waiting.cancel()
        for _ in range(second):
            await asyncio.sleep(0)
    assert waiting.cancelled()
    assert await rig.limiter.snapshot(QUOTAS) == before


class _DiesAfterTheGrant(Redis):
    """Grants once, and is gone when the grant is to be given back."""

    calls = 0

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls > 1:
            raise RedisConnectionError("gone")
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # so in redis-py


async def test_a_caller_is_cancelled_even_if_its_grant_cannot_be_given_back(
    redis: Redis,
) -> None:
    """Otherwise a loop that tries again after an error of Redis would never end."""
    rig = Rig(redis)
    await rig.permit(QUOTAS[1])  # the server knows the script
    client = _DiesAfterTheGrant(connection_pool=redis.connection_pool)
    dying = Limiter(client, rig.prefix, clock=rig.time)
    waiting = asyncio.ensure_future(dying.acquire([QUOTAS[1]], holder="h", request_id="r", max_wait_s=0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert client.calls == 2
