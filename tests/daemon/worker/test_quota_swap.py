"""A dispatcher whose quotas are replaced: nothing stays charged under the former limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.accounts.quota_book import QuotaBook
from daemon.accounts.quota_store import reset, set_limits
from daemon.accounts.routes import Routes
from limiter import Later
from tests.daemon.worker.bare_replica import Replica
from tests.daemon.worker.conftest import MakeReplica

CONFIGURED = {"requests": "100/min"}
BOOKS = ("log:images", "log:requests", "leases")


class Swap:
    """A replica, the book of its quotas, and an operator."""

    def __init__(self, redis: Redis, replica: Replica) -> None:
        self.redis, self.replica = redis, replica
        self.keys = self.replica.installation.keys
        routes = Routes([self.replica.route])
        self.book = QuotaBook(redis, self.keys, routes, {"q": CONFIGURED}, self.replica.bell)

    async def set(self, **fields: object) -> None:
        await set_limits(self.redis, self.keys, "q", CONFIGURED, fields)
        await self.book.read()

    async def reset(self) -> None:
        await reset(self.redis, self.keys, "q")
        await self.book.read()

    async def use(self) -> None:
        """Charge one call of another replica."""
        await self.replica.granted("other")

    async def charged(self) -> list[int]:
        """How many charges are in each of BOOKS."""
        return [await self.replica.charges(book) for book in BOOKS]


@pytest.fixture
def swap(redis: Redis, replica_of: MakeReplica) -> Swap:
    return Swap(redis, replica_of(**CONFIGURED))


async def test_after_a_swap_no_reservation_of_the_former_limits_remains(swap: Swap) -> None:
    replica = swap.replica
    await swap.set(images="1/h")
    await swap.use()
    for _ in range(2):
        assert isinstance(await replica.dispatcher._requested(), Later)
    assert await swap.charged() == [2, 2, 0], "a reservation"
    await swap.reset()
    await replica.installation.submit({"id": "a", "prompt": "x"})
    await replica.dispatcher._step()
    await replica.has_started(1)
    assert await swap.charged() == [1, 2, 0]


async def test_after_a_swap_no_grant_of_the_former_limits_remains(
    swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = swap.replica
    await swap.set(images="5/min", in_flight=1)
    acquire = replica.limiter.acquire

    async def reply_lost(*args: Any, **options: Any) -> None:
        await acquire(*args, **options)
        raise RedisConnectionError("the reply is lost")

    with monkeypatch.context() as patched:
        patched.setattr(replica.limiter, "acquire", reply_lost)
        with pytest.raises(RedisConnectionError):
            await replica.dispatcher._requested()
    assert await swap.charged() == [1, 1, 1]
    await swap.reset()
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()
    await replica.has_started(1)
    assert await swap.charged() == [0, 1, 0]


async def test_a_denial_under_the_former_limits_is_not_waited_for(
    swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = swap.replica
    await swap.set(images="1/h")
    await swap.use()
    denied, may_come = asyncio.Event(), asyncio.Event()
    acquire = replica.limiter.acquire

    async def slowly(*args: Any, **options: Any) -> Any:
        reply = await acquire(*args, **options)
        denied.set()
        await may_come.wait()
        return reply

    monkeypatch.setattr(replica.limiter, "acquire", slowly)
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()
    await denied.wait()
    await swap.set(images="100/min")
    may_come.set()
    await replica.has_started(1)
    assert await swap.charged() == [2, 2, 0]
