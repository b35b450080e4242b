"""A producer's program, a worker that is killed and a program that is stopped: every picture is made and paid once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    simulator = SimulatorProcess(tmp_path, "--plain", "--in-flight", str(PLACES), "--latency", "1.5-1.5")
    simulator.base_url = simulator.base_url.removesuffix("/v1")
    (tmp_path / "secret-id").write_text(TC3_SECRET_ID)
    (tmp_path / "secret-key").write_text(TC3_SECRET_KEY)
    # On a busy machine, a replica without CPU for a whole lease counts as dead.
    config = HUNYUAN.replace('api_key_env = "E2E_API_KEY"', SIGNED).replace('lease = "1s"', 'lease = "5s"')
    fleet = Fleet(tmp_path, redis_server, simulator, f"in_flight = {PLACES}", config)
    yield fleet
    fleet.close()


@pytest.mark.timeout(180)
def test_a_hundred_pictures_are_made_and_paid_once(fleet: Fleet, redis_server: RedisServer) -> None:
    (fleet.directory / "spring.py").write_text(PROGRAM)
    victim, _ = fleet.start(2)

    def program() -> Command:
        return Command([], fleet.directory, module="spring", PIXMILL_REDIS__URL=redis_server.url)

    def all_places_have_receipts() -> bool:
        counts = fleet.counts("spring")
        ended = counts.get("succeeded", 0) + counts.get("failed", 0)
        return (
            ended >= PLACES and len(fleet.events("job.submitted")) + counts.get("failed", 0) == ended + PLACES
        )

    first = program()
    wait_until(all_places_have_receipts, 60, lambda: f"{fleet.counts('spring')}\n{first.output}")
    victim.kill()  # between a call and its receipt nobody could know whether it is paid
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
