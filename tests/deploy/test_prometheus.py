"""The configuration and the rules of Prometheus are right by its own tool; test_fleet.py tries them on a real fleet."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.deploy.files import DEPLOY, RULES, alerts, read_yaml

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="there is no `promtool` on PATH to check the rules"
)

RULE_TESTS = sorted(path.name for path in RULES.parent.glob("*_test.yml"))


@needs_promtool
@pytest.mark.parametrize(
    "check",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        *(("test", "rules", name) for name in RULE_TESTS),
    ],
)
def test_promtool_agrees(check: tuple[str, str, str]) -> None:
    *command, file = check
    done = subprocess.run(
        ["promtool", *command, str(DEPLOY / "prometheus" / file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_tests_every_alert_both_firing_and_quiet() -> None:
    cases = [
        case
        for name in RULE_TESTS
        for test in read_yaml(DEPLOY / "prometheus" / name)["tests"]
        for case in test["alert_rule_test"]
    ]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case.get("exp_alerts")) is fires} == set(alerts())
