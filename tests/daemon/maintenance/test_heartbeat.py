"""The leases of running items are renewed in time, and young ones not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.maintenance.heartbeat import Heartbeat
from daemon.worker.run import Run
from limiter import Permit
from tests.daemon.harness import eventually
from tests.daemon.worker.bare_replica import Replica

LEASE_S = 3600.0


@pytest.fixture
async def replica(redis: Redis) -> AsyncIterator[Replica]:
    replica = Replica(redis, in_flight=1)
    yield replica
    await replica.close()


@pytest.fixture
def renewed(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> list[Permit]:
    """The permits that were renewed, one after the other."""
    permits: list[Permit] = []
    renew = replica.limiter.renew

    async def noted(held: Sequence[Permit]) -> list[Permit]:
        permits.extend(held)
        return await renew(held)

    monkeypatch.setattr(replica.limiter, "renew", noted)
    return permits


def _heartbeat(replica: Replica) -> Heartbeat:
    return Heartbeat(replica.queue, replica.limiter, replica.pool, replica.calls.lag, lease_s=LEASE_S)


async def _runs(replica: Replica, *, leaves_at: float, adopted: bool = False) -> Run:
    """A run whose slot is at this monotonic time."""
    permit, item = await replica.granted(), await replica.claimed()
    replica.pool.start(item, replica.route, permit, slot_at=leaves_at, leaves_at=leaves_at, adopted=adopted)
    [run] = replica.pool.current()
    return run


@pytest.mark.parametrize(("age", "due"), [(-0.1, False), (0.2, False), (0.3, True), (0.9, True)])
async def test_a_lease_is_renewed_from_a_quarter_of_it_on(
    replica: Replica, renewed: list[Permit], age: float, due: bool
) -> None:
    run = await _runs(replica, leaves_at=time.monotonic() - age * LEASE_S)
    await _heartbeat(replica).beat()
    assert renewed == ([run.permit] if due else [])


async def test_an_adopted_lease_is_renewed_at_once(replica: Replica, renewed: list[Permit]) -> None:
    run = await _runs(replica, leaves_at=time.monotonic(), adopted=True)
    await _heartbeat(replica).beat()
    assert renewed == [run.permit]


async def test_a_beat_that_fails_is_repeated_within_a_fraction_of_a_lease(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _runs(replica, leaves_at=time.monotonic() - LEASE_S / 2)
    beats = 0

    async def renew(_permits: object) -> list[Permit]:
        nonlocal beats
        beats += 1
        if beats < 4:
            raise RedisConnectionError("away")
        return []

    async def works_again() -> bool:
        return beats == 4

    monkeypatch.setattr(replica.limiter, "renew", renew)
    replica.tasks.append(asyncio.create_task(_heartbeat(replica).run()))
    await eventually(works_again)
