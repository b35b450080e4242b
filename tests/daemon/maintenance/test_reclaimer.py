"""Orphans are found behind any number of live entries, and names of dead replicas are removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from daemon.intake.reader import ROUND
from daemon.maintenance import reclaimer as leases
from daemon.maintenance.janitor import IDLE_LEASES, Janitor
from daemon.maintenance.reclaimer import Reclaimer
from daemon.queue.outcomes import Outcome, Succeeded
from daemon.queue.queue import Queue
from daemon.worker.run import Run
from tests.daemon.harness import Bench, Installation, eventually

LEASE_S = 10.0
LONG_AGO_MS = 60_000
SCANNED_A_PAGE = 1000  # XAUTOCLAIM looks at ten times its COUNT, which is 100
DONE = Succeeded({"images": []})


class Heir:
    """A replica that only takes items over, and runs them until the test ends."""

    def __init__(self, installation: Installation) -> None:
        queue, metrics = installation.other("heir"), installation.metrics
        self.running = Bench(queue, metrics, _forever).pool
        self.reclaimer = Reclaimer(
            queue, installation.routes, self.running, metrics, lease_s=LEASE_S, most_crashes=5
        )

    @property
    def taken(self) -> list[str]:
        return [run.item.uid for run in self.running.current()]


async def _forever(_run: Run) -> Outcome:
    await asyncio.Event().wait()
    return DONE


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


@pytest.fixture
async def heir(installation: Installation) -> AsyncIterator[Heir]:
    heir = Heir(installation)
    yield heir
    await heir.running.drain(0, lambda: False)


async def orphan_behind(installation: Installation, live: int) -> str:
    """Renewed items, and behind them an orphan; returns its uid."""
    for number in range(0, live + 1, 1000):
        await installation.batch(f"b{number}", min(1000, live + 1 - number))
    items = await installation.claim(live + 1)
    assert len(items) == live + 1
    stream, orphan = installation.keys.stream("default", "normal"), items[-1]
    await installation.redis.xclaim(stream, "workers", "w1", 0, [orphan.entry], idle=LONG_AGO_MS, justid=True)
    return orphan.uid


async def test_an_orphan_behind_many_live_entries_is_found_by_the_next_sweep(
    installation: Installation, heir: Heir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "MOST_PAGES", 1)
    orphan = await orphan_behind(installation, SCANNED_A_PAGE + 100)
    assert await heir.reclaimer.sweep() == 0
    assert await heir.reclaimer.sweep() == 1
    assert heir.taken == [orphan]


async def test_an_orphan_behind_thousands_of_live_entries_is_found_in_one_sweep(
    installation: Installation, heir: Heir
) -> None:
    orphan = await orphan_behind(installation, 2 * SCANNED_A_PAGE + 100)
    assert await heir.reclaimer.sweep() == 1
    assert heir.taken == [orphan]


async def test_an_entry_of_a_dead_intake_is_found_behind_hundreds_of_live_ones(
    installation: Installation,
) -> None:
    await installation.intake.create_group()
    for number in range(10 * ROUND + 50):
        last = await installation.add({"id": f"j{number}", "prompt": "x"})
    await installation.redis.xreadgroup(
        "intake", "busy", {installation.keys.jobs: ">"}, count=10 * ROUND + 50
    )
    await installation.redis.xclaim(
        installation.keys.jobs, "intake", "dead", 0, [last], idle=LONG_AGO_MS, justid=True
    )
    for _ in range(2):
        await installation.intake.reclaim()
    assert (await installation.record(f"default//j{10 * ROUND + 49}"))["state"] == "queued"
    assert await installation.record("default//j0") == {}, "a live replica keeps the entries that it has read"


async def names(installation: Installation) -> set[str]:
    rows = await installation.redis.xinfo_consumers(installation.keys.stream("default", "normal"), "workers")
    return {row["name"].decode() for row in rows}


async def run_one(queue: Queue) -> None:
    (item,) = (await queue.claim("default", 1)).items
    await queue.settle(item, DONE)


async def test_the_name_of_a_dead_replica_goes_once_nothing_is_pending_under_it(
    installation: Installation,
) -> None:
    await installation.batch("b1", 3)
    await installation.other("owing").claim("default", 1)
    await run_one(installation.other("dead"))  # idle for less time than the other one
    assert await names(installation) == {"dead", "owing"}
    janitor = Janitor(installation.queue, ["default"], lease_s=0.02)

    async def gone() -> bool:
        await janitor.forget()
        return "dead" not in await names(installation)

    await eventually(gone)
    assert await names(installation) == {"owing"}, "DELCONSUMER would drop the pending entries with the name"
    page = await installation.other("heir").reclaim("default", "normal", lease_s=0, cursor="0-0")
    assert len(page.items) == 1
    await eventually(lambda: _forgotten(janitor))
    assert "owing" not in await names(installation)


async def _forgotten(janitor: Janitor) -> bool:
    return await janitor.forget() > 0


async def test_a_replica_that_was_active_lately_keeps_its_name(installation: Installation) -> None:
    await installation.batch("b1", 1)
    await run_one(installation.other("w2"))
    assert await Janitor(installation.queue, ["default"], lease_s=60 / IDLE_LEASES).forget() == 0
    assert await names(installation) == {"w2"}


async def test_an_idle_replica_goes_on_after_its_name_was_removed(
    installation: Installation,
) -> None:
    await installation.batch("b1", 2)
    idle = installation.other("idle")
    await run_one(idle)
    await eventually(lambda: _forgotten(Janitor(installation.queue, ["default"], lease_s=0.001)))
    (item,) = (await idle.claim("default", 1)).items
    assert await names(installation) == {"idle"}
    assert await idle.renew([item]) == ["ours"]
    assert await idle.settle(item, DONE) == "succeeded"
