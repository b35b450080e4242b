"""How long a tenant with few items waits beside one with thousands: the order of claims on a real server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from daemon.accounts.routes import Route, Routes
from daemon.callbacks.signing import Webhooks
from daemon.intake.acceptance import Acceptor
from daemon.intake.reader import Intake
from daemon.queue.outcomes import Succeeded
from daemon.queue.queue import Queue
from daemon.telemetry.metrics import Metrics
from pixmill.contract.entry import NO_TYPES
from pixmill.records.keys import Keys, Uid
from providers.openai.provider import create

ROUTE = "default"
BOUND_SLOTS = 2
BATCH = 1000  # items an entry
UNDER_WAY = 5  # items of the large tenant that run when the small one comes


@dataclass(frozen=True, slots=True)
class Waits:
    """The route's slots until each item of the small tenant: from its arrival, then from its item before.

    Alone, each waits one slot. An item that is never served counts as if it waited for all items of the large tenant.
    """

    slots: tuple[int, ...]

    @property
    def more_than_alone(self) -> int:
        """The longest wait of one of them that the other tenant caused."""
        return max(self.slots) - 1


async def waits(redis: Redis, *, small: int = 4, large: int = 10_000) -> Waits:
    """Let a tenant with `small` items come while one with `large` is served, and claim until it is served."""
    queue, intake = _installation(redis)
    for first in range(0, large, BATCH):
        await _submit(redis, intake, "large", f"b{first}", min(BATCH, large - first))
    for _ in range(min(UNDER_WAY, large)):
        await _next(queue)
    await _submit(redis, intake, "small", "b", small)
    slots: list[int] = []
    since = 0
    while len(slots) < small:
        since += 1
        tenant = await _next(queue)
        if tenant == "small" or tenant is None:
            slots.append(since)
            since = 0 if tenant else large
    return Waits(tuple(slots))


async def _next(queue: Queue) -> str | None:
    """The tenant whose item is next, None if none waits. The item ends at once, so that it holds nothing up."""
    items = (await queue.claim(ROUTE, 1)).items
    if not items:
        return None
    (item,) = items
    await queue.settle(item, Succeeded({"images": []}))
    return Uid.parse(item.uid).tenant


def _installation(redis: Redis) -> tuple[Queue, Intake]:
    provider = create(base_url="http://127.0.0.1:9/v1", secrets={"api_key": "none"}, options={})
    keys = Keys("fairness")
    queue, metrics = Queue(redis, keys, "w1"), Metrics()
    routes = Routes([Route(ROUTE, provider, "no-op")])
    acceptor = Acceptor(queue, routes, Webhooks({}, ()), metrics.count_received)
    return queue, Intake(redis, redis, queue, acceptor, metrics, NO_TYPES, lease_s=15)


async def _submit(redis: Any, intake: Intake, tenant: str, batch: str, items: int) -> None:
    await intake.create_group()
    payload = {
        "id": batch,
        "tenant": tenant,
        "defaults": {"prompt": "x"},
        "items": [{"id": f"i{number}"} for number in range(items)],
    }
    keys = Keys("fairness")
    fields = {"type": "pixmill.batch.v1", "data": json.dumps(payload)}
    await redis.xadd(keys.jobs, fields)
    reply: Any = await redis.xreadgroup("intake", "w1", {keys.jobs: ">"}, count=1)
    pages = reply.values() if isinstance(reply, dict) else [page for _, page in reply]
    entries = [(entry.decode(), fields) for page in pages for entry, fields in page]
    await intake.take(entries)
