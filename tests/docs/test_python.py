"""The page for Python is true: its blocks run as one program, over tc3 as the older Hunyuan client did."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pixmill
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY
from tests.docs.pages import BIN, ROOT, blocks_of, run
from tests.e2e.processes import SimulatorProcess
from tests.e2e.test_fleet import Fleet
from tests.e2e.test_tasks import HUNYUAN, SIGNED
from tests.servers import RedisServer

PAGE = ROOT / "docs" / "python.md"


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer) -> Iterator[Fleet]:
    simulator = SimulatorProcess(tmp_path, "--plain", "--latency", "0.1-0.1")
    simulator.base_url = simulator.base_url.removesuffix("/v1")
    (tmp_path / "secret-id").write_text(TC3_SECRET_ID)
    (tmp_path / "secret-key").write_text(TC3_SECRET_KEY)
    config = HUNYUAN.replace('api_key_env = "E2E_API_KEY"', SIGNED).replace('lease = "1s"', 'lease = "5s"')
    fleet = Fleet(tmp_path, redis_server, simulator, "in_flight = 4", config)
    yield fleet
    fleet.close()


def test_the_blocks_work_and_print_what_they_say(fleet: Fleet, redis_server: RedisServer) -> None:
    fleet.start(1)
    program = "\n".join(block.text for block in blocks_of("docs/python.md") if block.kind == "python")
    expected = re.findall(r"^# > (.*)$", program, re.MULTILINE)
    folder = fleet.directory / "program"
    folder.mkdir()
    done = run(program, folder, (str(BIN / "python"), "-c"), PIXMILL_REDIS__URL=redis_server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == expected
    prompts = fleet.simulator.ledger()["calls_by_prompt"]
    assert "a blue kettle, watercolour" in prompts
    assert prompts["a clay pot"] == 1


def test_the_page_names_every_error() -> None:
    listed = set(re.findall(r"`(\w+Error)`", PAGE.read_text("utf-8")))
    assert listed == {name for name in pixmill.__all__ if name.endswith("Error")}
