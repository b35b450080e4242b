"""The core of everything that an installation does, the same on one server, behind Sentinels and on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pixmill
from daemon.queue.orders import CANCEL_STATES, Orders
from providers.simulator.settings import SimulatorSettings
from tests.daemon.harness import eventually
from tests.topologies.conftest import Place
from tests.topologies.rig import FIELDS, PATIENCE_S, Installed, installed

pytestmark = pytest.mark.timeout(150)  # a cluster is started within the first test that needs one


async def test_a_job_becomes_a_picture(installation: Installed) -> None:
    ident = await installation.client.submit({"prompt": "a red kettle", **FIELDS}, wait_accepted_s=PATIENCE_S)

    async def made() -> bool:
        return all(result.ok for result in await installation.client.results(ident))

    await eventually(made, PATIENCE_S)
    (result,) = await installation.client.results(ident)
    assert len(result.images) == 1
    assert installation.calls() == {"a red kettle": 1}


async def test_a_batch_is_made_and_its_events_end_with_its_last_item(
    place: Place, installation: Installed
) -> None:
    reported: list[tuple[int, int]] = []
    rows = [{"prompt": f"cup {k}", **FIELDS} for k in range(20)]
    async with pixmill.Client(place.url, prefix=place.prefix) as producer:
        results = await producer.generate_batch(
            rows, batch_id="cups", on_progress=lambda done, total: reported.append((done, total))
        )
    assert [result.ok for result in results] == [True] * 20
    assert reported == [(k, 20) for k in range(1, 21)]
    kinds = [event.type async for event in installation.client.watch("cups")]
    assert (kinds[0], kinds[-1]) == ("batch.accepted", "batch.finished")
    assert kinds.count("job.succeeded") == 20


async def test_a_refused_job_is_reported_and_harms_no_other(installation: Installed) -> None:
    await installation.client.redis.xadd(installation.client.keys.jobs, {"data": "{"})
    await installation.send("good", 3)
    assert (await installation.ended("good"))["succeeded"] == 3
    assert len(await installation.events("job.rejected")) == 1
    assert await installation.client.redis.xlen(installation.client.keys.dead) == 1


async def test_a_cancelled_batch_ends_and_a_retry_makes_the_missing_pictures(
    place: Place, tmp_path: Path
) -> None:
    slow = SimulatorSettings(plain=True, latency_s=(0.1, 0.2))
    async with installed(
        place.url, tmp_path, prefix=place.prefix, simulator=slow, quota={"in_flight": 2}
    ) as made:
        await made.send("half", 12)
        await made.reached("half", succeeded=2)
        orders = Orders(made.client.redis, made.client.keys)
        assert (await orders.cancel("group", "default/half", CANCEL_STATES)).known
        counts = await made.ended("half")
        assert counts["cancelled"] > 0
        assert counts["succeeded"] + counts["cancelled"] == 12
        retried = await orders.retry("group", "default/half", ["cancelled"])
        assert retried.ended_or_queued == counts["cancelled"]
        assert (await made.ended("half"))["succeeded"] == 12
        assert set(made.calls().values()) == {1}


async def test_replicas_share_the_quota_by_the_providers_own_count(place: Place, tmp_path: Path) -> None:
    strict = SimulatorSettings(plain=True, latency_s=(0.02, 0.05), in_flight=4)
    async with installed(
        place.url,
        tmp_path,
        prefix=place.prefix,
        replicas=2,
        simulator=strict,
        quota={"images": "10/2s", "in_flight": 4},
    ) as made:
        await made.send("paced", 25)
        assert (await made.ended("paced"))["succeeded"] == 25
        assert made.simulator.ledger.statuses() == {200: 25}, "no answer is 429"
        # Provider and replicas share a process and a busy machine here: a call may arrive late for its slot.
        assert made.simulator.ledger.max_in_window(1.7) <= 10


async def test_the_bell_alone_starts_work(installation: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    (replica,) = installation.replicas

    async def listening() -> bool:
        return replica._bell.listening

    await eventually(listening, PATIENCE_S)
    # No replica polls any more, so only the bell can start the next job.
    monkeypatch.setattr("daemon.worker.dispatcher.LOOK_EVERY_S", 3600.0)
    await installation.send("first", 1)
    await installation.ended("first")
    await installation.send("rung", 1)
    assert (await installation.ended("rung"))["succeeded"] == 1


async def test_a_task_is_submitted_once_and_its_receipt_is_reported(installation: Installed) -> None:
    await installation.send("tasks", 4, route="tasks")
    assert (await installation.ended("tasks"))["succeeded"] == 4
    assert set(installation.calls().values()) == {1}
    assert len(await installation.events("job.submitted")) == 4


async def test_every_key_of_an_installation_begins_with_its_prefix(
    installation: Installed, place: Place
) -> None:
    """On a cluster all keys are in one slot, so no other node has any."""
    await installation.send("keys", 4)
    await installation.ended("keys")
    keys: Any = await installation.client.redis.keys("*")
    assert keys
    assert all(key.startswith(place.prefix.encode() + b":") for key in keys)
