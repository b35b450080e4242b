"""The rest of an installation's records: what is known of accounts, and batches whose parts have not all come.

`golden/accounts.json` has them as 0.1.0 writes them. The limiter's books hold times, so they are written and read in
virtual time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from daemon.accounts.call_times import CallTimes
from daemon.accounts.quota_store import set_limits
from daemon.queue.outcomes import Succeeded
from daemon.telemetry.metrics import Metrics
from daemon.worker.polls.durations import Durations
from daemon.worker.polls.rhythm import FEWEST, Seen
from limiter import Grant, Limiter, Quota, parse_quota
from pixmill.contract import Job
from tests.daemon.harness import Installation
from tests.limiter.conftest import VirtualTime

ACCOUNTS: Final = Path(__file__).parent / "accounts.json"
# One quota of each kind of book; `learning` is refused once, and `paused` by an operator.
TABLES: Final[dict[str, dict[str, object]]] = {
    "strict": {"images": "4/h"},
    "large": {"requests": "3000/h"},
    "bucket": {"requests": {"rate": "60/h", "burst": 10}},
    "whole": {"requests": {"rate": "10/h", "window": "fixed"}},
    "daily": {"requests": {"rate": "100/day", "reset": "Asia/Shanghai"}},
    "busy": {"in_flight": 2},
    "learning": {"images": "60/h", "adaptive": True},
    "paused": {"images": "60/h"},
}
QUOTAS: Final = {name: parse_quota(name, table) for name, table in TABLES.items()}
CONFIGURED: Final[dict[str, object]] = {"images": "20/min", "in_flight": 8}
SIZED: Final = Job.model_validate({"id": "sized", "prompt": "x", "size": "1024x1024"})


def limiter_of(redis: Redis, time: VirtualTime) -> Limiter:
    """Its leases outlive the virtual time of a test."""
    return Limiter(redis, "pixmill", clock=time, lease_s=3600)


async def granted(limiter: Limiter, quota: Quota, request: str) -> Grant:
    """Two pictures of one call."""
    costs = {"requests": 1, "images": 2}
    grant = await limiter.acquire([quota], costs=costs, holder="w1", request_id=request, max_wait_s=86_400)
    assert isinstance(grant, Grant)
    return grant


async def fill_accounts(redis: Redis) -> None:
    """Create every record of `ACCOUNTS`."""
    made, limiter = Installation(redis), limiter_of(redis, VirtualTime())
    await made.queue.install(records_s=86400, failed_s=604800, starts=True)
    for name, quota in QUOTAS.items():
        await granted(limiter, quota, f"job-{name}")
    await limiter.report_spread(2_000)
    refused = await granted(limiter, QUOTAS["learning"], "refused")
    await limiter.penalise(QUOTAS["learning"], reason="429", retry_after_s=600, permit=refused.permit)
    await limiter.pause("paused", "lunch")
    await set_limits(redis, made.keys, "strict", CONFIGURED, {"images": "5/min"})
    await CallTimes(redis, made.keys, {"default": 12.5}).write()
    durations = Durations(redis, made.keys, Metrics())
    for _ in range(FEWEST):
        await durations.learn(made.routes["default"], SIZED, Seen(9.9, 10.1))
    await made.batch("ended", 1)
    (item,) = await made.claim()
    await made.queue.settle(item, Succeeded({"images": []}))  # no janitor has closed it yet
    batch = {"id": "parts", "part": 1, "parts": 2, "items": [{"id": "i1", "prompt": "x"}]}
    await made.submit(batch, type="pixmill.batch.v1")
    await made.submit({"id": "expires", "prompt": "x", "expires_at": "2099-01-01T00:00:00Z"})
