"""The files under test, parsed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "pixmill.json"


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def alerts() -> dict[str, str]:
    """Alert expressions by name."""
    return {rule["alert"]: rule["expr"] for rule in alert_rules()}


def alert_rules() -> list[dict[str, Any]]:
    """The rules that alert; those that record are left out."""
    return [rule for group in read_yaml(RULES)["groups"] for rule in group["rules"] if "alert" in rule]


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without its row titles."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
