"""A producer's program, a worker that is killed and a program that is stopped: every picture is made and paid once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.queue import pauses
from pixmill.records.keys import Keys
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY
from tests.e2e.processes import Command, SimulatorProcess, wait_until
from tests.e2e.test_fleet import Fleet
from tests.e2e.test_tasks import HUNYUAN, SIGNED
from tests.servers import RedisServer

PLACES = 20
PROGRAM = """
from pixmill import GenerationTask, batch_statistics, create_client_from_env

tasks = [
    GenerationTask("a forbidden cup" if n == 7 else f"a cup, number {n}", output_path=f"out/{n:03d}.png")
    for n in range(100)
]
with create_client_from_env() as client:
    results = client.generate_batch_sync(
        tasks, batch_id="spring", on_progress=lambda done, total: print("done", done, "of", total, flush=True)
    )
print([(n, result.error_message) for n, result in enumerate(results) if not result.success])
statistics = batch_statistics(results)
print("made", statistics.successful, "failed", statistics.failed, all(result.generation_time for result in results))
"""


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer) -> Iterator[Fleet]:
    simulator = SimulatorProcess(tmp_path, "--plain", "--in-flight", str(PLACES), "--latency", "2-2")
    simulator.base_url = simulator.base_url.removesuffix("/v1")
    (tmp_path / "secret-id").write_text(TC3_SECRET_ID)
    (tmp_path / "secret-key").write_text(TC3_SECRET_KEY)
    # On a busy machine, a replica without CPU for a whole lease counts as dead.
    config = HUNYUAN.replace('api_key_env = "E2E_API_KEY"', SIGNED).replace('lease = "1s"', 'lease = "5s"')
    fleet = Fleet(tmp_path, redis_server, simulator, f"in_flight = {PLACES}", config)
    yield fleet
    fleet.close()


async def paused(url: str, order: str) -> None:
    async with Redis.from_url(url) as client:
        keys = Keys("pixmill")
        if order == "pause":
            await pauses.pause(client, keys, "batch", "default/spring", reason="")
        else:
            await pauses.resume(client, keys, "batch", "default/spring")


@pytest.mark.timeout(180)
def test_a_hundred_pictures_are_made_and_paid_once(fleet: Fleet, redis_server: RedisServer) -> None:
    (fleet.directory / "spring.py").write_text(PROGRAM)
    victim, _ = fleet.start(2)

    def program() -> Command:
        return Command([], fleet.directory, module="spring", PIXMILL_REDIS__URL=redis_server.url)

    def all_calls_have_receipts() -> bool:
        counts = fleet.counts("spring")
        return 0 < counts["running"] == len(fleet.events("job.submitted")) - counts["succeeded"]

    first = program()
    wait_until(lambda: fleet.counts("spring").get("succeeded", 0) >= PLACES, 60, lambda: first.output)
    # Between a call and its receipt nobody could know whether it is paid, so no call may begin meanwhile.
    asyncio.run(paused(redis_server.url, "pause"))
    wait_until(all_calls_have_receipts, 20, lambda: f"{fleet.counts('spring')}")
    victim.kill()
    asyncio.run(paused(redis_server.url, "resume"))
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(20) != 0
    assert "KeyboardInterrupt" in first.output
    assert fleet.counts("spring")["succeeded"] < 99

    second = program()
    assert second.wait_for("made ", 90) == "made 99 failed 1 True"
    assert second.process.wait(20) == 0
    ledger = fleet.simulator.ledger()
    assert set(ledger["calls_by_prompt"].values()) == {1}
    assert (len(ledger["calls_by_prompt"]), ledger["billed"]) == (99, 99)  # a refused call is none
    assert len(list((fleet.directory / "out").iterdir())) == 99
