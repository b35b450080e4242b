"""The wire to Redis is cut or loses what it should carry, while work goes on: nothing is done or paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from limiter import LuaScript
from limiter.script import INCLUDES
from providers.simulator.settings import SimulatorSettings
from tests.daemon.harness import eventually
from tests.daemon.worker.test_executor import png
from tests.servers import RedisServer
from tests.topologies.proxy import Wire, wire_to
from tests.topologies.rig import FIELDS, PATIENCE_S, SLOW, Installed, installed

ROOT = Path(__file__).parents[2]
SCRIPTS = (ROOT / "limiter" / "scripts", ROOT / "daemon" / "queue" / "scripts")


def sha_of(step: str) -> bytes:
    """The hash by which a script is called."""
    (path,) = (path for folder in SCRIPTS for path in folder.rglob(f"{step}.lua"))
    scripts = next(folder for folder in SCRIPTS if path.is_relative_to(folder))
    return LuaScript.load(scripts, str(path.relative_to(scripts).with_suffix("")), INCLUDES).sha.encode()


ITEMS = 16

pytestmark = pytest.mark.timeout(150)


@pytest.mark.parametrize("dropped", ["requests", "connections"])
@pytest.mark.usefixtures("impatient")
async def test_a_replica_that_is_cut_off_for_a_while_does_nothing_twice(
    durable: RedisServer, tmp_path: Path, dropped: str
) -> None:
    async with _cut_off(durable, tmp_path) as (wire, made):
        await made.send("b1", ITEMS)
        await made.reached("b1", succeeded=3)
        if dropped == "requests":
            wire.drop_requests()
        else:
            wire.cut()
        await _comes_back(wire, made)


INPUT = "default/inputs/kettle"
# The claim requests the permit of a call and notes its intent. An item with inputs notes it in a later step, and polls
# under a limit have permits of their own.
STEPS: dict[str, dict[str, Any]] = {
    "accept": {},
    "claim": {},
    "note": {"inputs": [{"object": INPUT}]},
    "acquire": {"route": "tasks"},
    "settle": {},
    "release": {},
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("impatient")
async def test_a_step_with_a_lost_reply_is_carried_out_once(
    durable: RedisServer, tmp_path: Path, step: str
) -> None:
    """Requests arrive; from the first reply to this step on, nothing comes back for a while."""
    sha, fields = sha_of(step), STEPS[step]
    async with _cut_off(durable, tmp_path, polls="200/s") as (wire, made):
        _put_input(tmp_path)
        await made.send("b0", 3, **fields)
        await made.ended("b0")  # the server knows every script by its hash now
        wire.drop_replies_from(sha)
        await made.send("b1", ITEMS, **fields)

        async def lost() -> bool:
            return wire.drops_replies

        await eventually(lost, PATIENCE_S)
        await _comes_back(wire, made, others=3)


@pytest.mark.usefixtures("impatient")
async def test_a_job_with_a_lost_acceptance_is_no_duplicate_of_itself(
    durable: RedisServer, tmp_path: Path
) -> None:
    async with _cut_off(durable, tmp_path) as (wire, made):
        await made.send("b0", 1)
        await made.ended("b0")
        wire.drop_replies_from(sha_of("accept"))
        ident = await made.client.submit({"prompt": "a red kettle", **FIELDS})
        await made.unready("does not answer")
        wire.heal()

        async def done() -> bool:
            return ident in await made.events("job.succeeded")

        await eventually(done, PATIENCE_S)
        await made.ready()
        assert await made.events("job.duplicate") == []
        assert made.calls()["a red kettle"] == 1


def _put_input(directory: Path) -> None:
    path = directory / "images" / INPUT
    path.parent.mkdir(parents=True)
    path.write_bytes(png())


@asynccontextmanager
async def _cut_off(
    server: RedisServer, directory: Path, *, polls: str | None = None
) -> AsyncIterator[tuple[Wire, Installed]]:
    """A replica on a wire that the test can cut, and a producer on a whole one."""
    quota = {"in_flight": 4}
    async with (
        wire_to(server.port) as wire,
        installed(
            wire.url, directory, simulator=SLOW, quota=quota, polls=polls, client_url=server.url
        ) as made,
    ):
        yield wire, made


async def _comes_back(wire: Wire, made: Installed, others: int = 0) -> None:
    await made.unready("does not answer")
    await made.send("b2", 2)  # others can still send
    wire.heal()
    await made.ready()
    assert (await made.ended("b2"))["succeeded"] == 2
    assert (await made.ended("b1"))["succeeded"] == ITEMS
    assert set(made.calls().values()) == {1}
    assert len(await made.events("job.succeeded")) == ITEMS + 2 + others
    assert await made.events("job.duplicate") == []
    assert await made.events("job.retrying") == [], "no attempt is lost"
    (replica,) = made.replicas
    finished = [
        replica.metrics.jobs_finished.labels(route=route, outcome="succeeded")
        for route in ("default", "tasks")
    ]

    def ends() -> float:
        return sum(float(counter._value.get()) for counter in finished)

    async def counted() -> bool:
        """Whether each end is counted: the last one is counted once the reply to its settle is here."""
        return ends() >= ITEMS + 2 + others

    await eventually(counted, PATIENCE_S)
    assert ends() == ITEMS + 2 + others, "each end is counted once"
    await made.nothing_held()


@pytest.mark.usefixtures("impatient")
async def test_another_replica_finishes_the_tasks_of_one_that_is_cut_off(
    durable: RedisServer, tmp_path: Path
) -> None:
    """The first one goes on polling without knowing, and comes back after the tasks were settled."""
    long = SimulatorSettings(plain=True, latency_s=(5.0, 6.0))
    async with (
        wire_to(durable.port) as wire,
        installed(wire.url, tmp_path, simulator=long, client_url=durable.url) as made,
    ):
        await made.send("long", 6, route="tasks")

        async def submitted() -> bool:
            return len(await made.events("job.submitted")) == 6

        await eventually(submitted, PATIENCE_S)
        async with made.another(durable.url) as other:
            wire.drop_replies()
            counts = await made.ended("long")
            assert counts["succeeded"] == 6
            assert other.metrics.reclaimed._value.get() == 6
            wire.heal()
            await made.ready()
            assert len(await made.events("job.succeeded")) == 6
            assert set(made.calls().values()) == {1}
            assert made.simulator.ledger.billed() == 6
            await made.nothing_held()


@pytest.mark.usefixtures("impatient")
async def test_replicas_do_not_come_back_together(durable: RedisServer, tmp_path: Path) -> None:
    """Every part of a replica retries after a random, growing pause, so a server that comes up is not stormed."""
    async with (
        wire_to(durable.port) as wire,
        installed(wire.url, tmp_path, replicas=2, client_url=durable.url) as made,
    ):
        await made.ready()
        wire.cut()
        await made.unready("does not answer")
        before = wire.connections
        await asyncio.sleep(3.0)  # the rate of connections counts here
        # 2 replicas of 12 parts each; with fixed pauses of 50 ms there would be over a thousand.
        assert wire.connections - before < 250
        wire.heal()
        await made.ready()
