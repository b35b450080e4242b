"""Every alert sees its cause in a real fleet, every panel shows its data, and the runbook mends what is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.files import alerts
from tests.deploy.fleet.causes import drive, end
from tests.deploy.fleet.prometheus import is_there
from tests.deploy.fleet.report import Watch, faults_of
from tests.deploy.fleet.stage import Stage

pytestmark = [
    pytest.mark.skipif(not is_there(), reason="there is no `prometheus` on PATH to run the queries"),
    pytest.mark.timeout(300),
]


def test_a_fleet_in_trouble_makes_every_alert_true_and_fills_every_panel(tmp_path: Path) -> None:
    stage = Stage(tmp_path, aof=False)
    try:
        assert stage.prometheus is not None
        watch = Watch(stage.prometheus)
        drive(stage, watch)
        assert faults_of(stage.prometheus) == []
        end(stage, watch)
        assert set(watch.seen) == set(alerts()) == set(stage.prometheus.alert_states())
    finally:
        stage.close()
