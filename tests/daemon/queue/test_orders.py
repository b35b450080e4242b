"""A cancel ends what waits, and a retry touches only what it names."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.queue.orders import CANCEL_STATES, DEFAULT_RETRY, Orders
from tests.daemon.harness import Installation
from tests.daemon.live import made, refused


async def test_cancel_ends_waiting_items_and_requests_running_ones_to_stop(redis: Redis) -> None:
    installation = Installation(redis)
    orders = Orders(redis, installation.keys)
    await installation.batch("b1", 5)
    await installation.claim(2)
    changed = await orders.cancel("group", "default/b1", CANCEL_STATES)
    assert (changed.known, changed.ended_or_queued, changed.requested) == (True, 3, 2)
    assert not (await orders.cancel("group", "default/nobody", CANCEL_STATES)).known


async def test_retry_touches_only_the_named_items(redis: Redis) -> None:
    installation = Installation(redis)
    orders = Orders(redis, installation.keys)
    await installation.batch("b1", 3)
    items = await installation.claim(3)
    await installation.queue.settle(items[0], made(items[0]))
    for item in items[1:]:
        await installation.queue.settle(item, refused())
    assert (await orders.retry("item", "default/b1/i1", DEFAULT_RETRY)).ended_or_queued == 1
    assert (await orders.retry("group", "default/b1", DEFAULT_RETRY)).ended_or_queued == 1
    assert (await orders.retry("group", "default/b1", DEFAULT_RETRY)).ended_or_queued == 0
    assert not (await orders.retry("group", "default/nobody", DEFAULT_RETRY)).known
