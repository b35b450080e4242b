"""Many clients at once, in real time, on a real server; and no server at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from limiter import Grant, Limiter, parse_quota
from limiter.quota.limits import EXACT_MOST
from tests.servers import RedisServer, free_port

WINDOW = parse_quota("api", {"requests": "20/s"})


@pytest.fixture
async def clients(redis: Redis, redis_server: RedisServer) -> AsyncIterator[list[Redis]]:
    made = [Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0)) for _ in range(50)]
    yield made
    for client in made:
        await client.aclose()


async def _granted(limiter: Limiter, request_id: str, max_wait_s: float) -> Grant:
    """A grant, requested as often as the denials say."""
    while True:
        answer = await limiter.acquire([WINDOW], holder="h", request_id=request_id, max_wait_s=max_wait_s)
        if isinstance(answer, Grant):
            return answer
        await asyncio.sleep(answer.retry_us / 1e6)


async def test_fifty_clients_racing_in_real_time_never_exceed_the_window(
    redis: Redis, clients: list[Redis]
) -> None:
    async def slot_of_one(number: int, client: Redis) -> float:
        grant = await _granted(Limiter(client, "pixmill"), f"job-{number}", 0.3)
        score = await client.zscore("pixmill:limiter:api:log:requests", f"{grant.permit.grant_id}:1")
        assert isinstance(score, float)
        return score

    slots = sorted(await asyncio.gather(*(slot_of_one(n, client) for n, client in enumerate(clients))))
    assert len(slots) == 50
    gaps_us = [later - earlier for earlier, later in zip(slots, slots[20:], strict=False)]
    assert min(gaps_us) >= 1_010_000
    # And none of it is wasted: the third twenty begins two windows after the first, within a few calls' time.
    assert slots[40] - slots[0] < 2 * 1_010_000 + 200_000


async def test_an_acquire_is_one_call_to_redis(redis: Redis, clients: list[Redis]) -> None:
    limiters = [Limiter(client, "pixmill") for client in clients[:10]]
    await _granted(limiters[0], "loads the script", 60)
    await redis.config_resetstat()
    await asyncio.gather(
        *(
            _granted(limiter, f"job-{number}-{turn}", 60)
            for turn in range(10)
            for number, limiter in enumerate(limiters)
        )
    )
    stats = await redis.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 100
    assert "cmdstat_eval" not in stats


async def test_no_quotas_and_no_leases_need_no_server() -> None:
    nowhere = Redis(port=free_port(), retry=Retry(NoBackoff(), 0))
    limiter = Limiter(nowhere, "pixmill")
    answer = await limiter.acquire([], holder="h", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    assert answer.wait_us == 0
    assert await limiter.renew([answer.permit]) == []
    assert not await limiter.release(answer.permit)
    await limiter.give_back(answer.permit)
    assert await limiter.snapshot([]) == []


async def test_without_redis_nothing_is_granted() -> None:
    limiter = Limiter(Redis(port=free_port(), retry=Retry(NoBackoff(), 0)), "pixmill")
    with pytest.raises(RedisConnectionError):
        await limiter.acquire([WINDOW], holder="h", request_id="r", max_wait_s=0)


async def _commands_of_a_request(redis: Redis, count: int, reserved: int) -> float:
    """The commands of one grant on the server: `count` uses in the window, `reserved` slots ahead."""
    await redis.flushall()
    now_us = 1_795_000_000_000_000
    limiter = Limiter(redis, "pixmill", clock=lambda: now_us)
    quota = parse_quota("api", {"requests": f"{count}/min", "images": f"{count}/min"})
    fill = {"requests": count // 10, "images": count // 10}
    for number in range(10):
        await limiter.acquire([quota], costs=fill, holder="h", request_id=f"fill-{number}", max_wait_s=0)
    now_us += 59_000_000
    for number in range(reserved + 20):
        if number == reserved:
            await redis.config_resetstat()
        assert isinstance(
            await limiter.acquire([quota], holder="h", request_id=f"{number}", max_wait_s=60), Grant
        )
    stats: dict[str, Any] = await redis.info("commandstats")
    calls: int = sum(each["calls"] for name, each in stats.items() if name != "cmdstat_config|resetstat")
    return calls / 20


async def test_the_cost_of_a_request_does_not_grow_with_the_quota_or_the_backlog(
    redis: Redis,
) -> None:
    few = await _commands_of_a_request(redis, count=100, reserved=1)
    assert await _commands_of_a_request(redis, count=EXACT_MOST, reserved=1) <= few + 1
    assert await _commands_of_a_request(redis, count=EXACT_MOST, reserved=64) <= few + 1


class _Listens(Redis):
    """Notes the keys that each script is given."""

    seen: list[list[str]]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "EVALSHA":
            self.seen.append([str(key) for key in args[3 : 3 + int(args[2])]])
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # so in redis-py


async def test_all_keys_of_a_call_are_in_one_slot_of_a_cluster(redis: Redis) -> None:
    client = _Listens(connection_pool=redis.connection_pool)
    client.seen = []
    limiter = Limiter(client, "{pixmill}")
    quotas = [
        parse_quota("a", {"requests": ["5/s", {"rate": "5/s", "burst": 5}, {"rate": "5/d", "reset": "UTC"}]}),
        parse_quota("b", {"images": "5000/min", "in_flight": 3}),
    ]
    answer = await limiter.acquire(quotas, holder="h", request_id="r", max_wait_s=5)
    assert isinstance(answer, Grant)
    await limiter.submitted(answer.permit, longest_s=5)
    await limiter.renew([answer.permit])
    await limiter.retime(answer.permit, quotas)
    await limiter.snapshot(quotas)
    await limiter.penalise(quotas[0], retry_after_s=1, reason="429")
    await limiter.pause("a", "stop", 0)
    await limiter.release(answer.permit)
    await limiter.give_back(answer.permit)
    assert len(client.seen) >= 9
    assert all(
        "pixmill" in key and key_slot(key.encode()) == key_slot(b"{pixmill}")
        for keys in client.seen
        for key in keys
    )
