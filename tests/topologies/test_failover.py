"""The master dies and its replica takes over: work goes on, and what had reached the replica is not done again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from providers.simulator.settings import SimulatorSettings
from tests.daemon.harness import eventually
from tests.topologies.rig import PATIENCE_S, SLOW, Installed, installed
from tests.topologies.servers import Cluster, Watched, caught_up

ITEMS = 16


async def _goes_on(made: Installed, batch: str) -> None:
    """After it the installation must finish its work and take new work, with every part of it."""
    counts = await made.ended(batch)
    assert counts["succeeded"] == counts["total"] == ITEMS
    done = await made.events("job.succeeded")
    assert sorted(done) == sorted(f"i{k}" for k in range(ITEMS)), "exactly one result each"
    await made.ready()
    await made.send("after", 3)
    assert (await made.ended("after"))["succeeded"] == 3

    async def listening() -> bool:
        return all(replica._bell.listening for replica in made.replicas)

    await eventually(listening, PATIENCE_S)


@pytest.mark.timeout(150)
async def test_a_batch_survives_the_death_of_the_master(watched: Watched, tmp_path: Path) -> None:
    async with installed(watched.url, tmp_path, replicas=2, simulator=SLOW, quota={"in_flight": 4}) as made:
        await made.send("b1", ITEMS)
        await made.reached("b1", succeeded=3)
        # Everything that Redis acknowledged until here has reached the replica, so nothing of it may be lost. Calls
        # that begin after it may be lost with the master: they are the bound that docs/operating.md states.
        await asyncio.to_thread(caught_up, watched.master)
        await asyncio.to_thread(watched.fail_over)
        await _goes_on(made, "b1")
        again = [prompt for prompt, calls in made.calls().items() if calls > 1]
        assert len(again) <= 4, f"at most what was on the wire within the lag: {again}"


@pytest.mark.timeout(150)
async def test_a_task_whose_receipt_was_replicated_is_not_bought_again(
    watched: Watched, tmp_path: Path
) -> None:
    """Long tasks are under way when the master dies, and end after it."""
    long = SimulatorSettings(plain=True, latency_s=(6.0, 7.0))
    async with installed(watched.url, tmp_path, simulator=long) as made:
        await made.send("long", 6, route="tasks")

        async def submitted() -> bool:
            return len(await made.events("job.submitted")) == 6

        await eventually(submitted, PATIENCE_S)
        await asyncio.to_thread(caught_up, watched.master)
        await asyncio.to_thread(watched.fail_over)
        counts = await made.ended("long")
        assert counts["succeeded"] == 6
        assert set(made.calls().values()) == {1}
        assert made.simulator.ledger.billed() == 6


@pytest.mark.timeout(150)
async def test_on_a_cluster_a_batch_survives_that_its_slot_goes_to_another_node(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.flush()
    async with installed(
        cluster.url, tmp_path, prefix="{pixmill}", replicas=2, simulator=SLOW, quota={"in_flight": 4}
    ) as made:
        await made.send("b1", ITEMS)
        await made.reached("b1", succeeded=3)
        await asyncio.to_thread(cluster.hand_over)
        await _goes_on(made, "b1")
        assert set(made.calls().values()) == {1}, "a planned failover loses nothing"
        # The old owner is alive, as a replica, and answers everything with MOVED.


@pytest.mark.timeout(150)
async def test_on_a_cluster_a_batch_survives_the_death_of_the_node_that_has_its_keys(tmp_path: Path) -> None:
    cluster = Cluster()
    try:
        async with installed(
            cluster.url, tmp_path, prefix="{pixmill}", simulator=SLOW, quota={"in_flight": 4}
        ) as made:
            await made.send("b1", ITEMS)
            await made.reached("b1", succeeded=3)
            victim = cluster.owner
            await asyncio.to_thread(caught_up, victim)
            victim.kill()
            await made.unready("")
            await _goes_on(made, "b1")
            assert cluster.owner is cluster.spare
            again = [prompt for prompt, calls in made.calls().items() if calls > 1]
            assert len(again) <= 4, f"at most what was on the wire within the lag: {again}"
    finally:
        cluster.close()
