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
    groups = read_yaml(RULES)["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without its row titles."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
