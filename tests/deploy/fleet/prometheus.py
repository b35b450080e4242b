"""A Prometheus with the rules of deploy/, which looks at ports of this machine once a second."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.deploy.files import DEPLOY, RULES, read_yaml
from tests.e2e.processes import wait_until
from tests.servers import free_port

STARTS_S = 30.0
# Long enough for all that a run has counted.
GRAFANA = {"$__rate_interval": "5m", "$__range": "5m", "$job": ".*", "$route": ".*", "$quota": ".*"}

Sample = tuple[dict[str, str], float]


def is_there() -> bool:
    return shutil.which("prometheus") is not None


class Prometheus:
    """Scrapes the `ports` of each job. The jobs are those of deploy/prometheus/prometheus.yml."""

    def __init__(self, directory: Path, ports: Mapping[str, Sequence[int]]) -> None:
        directory.mkdir()
        (directory / "prometheus.yml").write_text(yaml.safe_dump(_config(ports)))
        self.url = f"http://127.0.0.1:{free_port()}"
        self._client = httpx2.Client(base_url=f"{self.url}/api/v1/", trust_env=False, timeout=30)
        log = directory / "log"
        with log.open("wb") as target:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--log.level=warn",
                ],
                stdout=target,
                stderr=target,
            )
        wait_until(self._answers, STARTS_S, log.read_text)

    def _answers(self) -> bool:
        try:
            return bool(self.query("up"))
        except (httpx2.HTTPError, ValueError):  # not listening yet, or starting: it then answers a plain text
            return False

    def query(self, expression: str) -> list[Sample]:
        """The numbers of an expression now, with their labels; NaN is left out. It may have variables of Grafana."""
        for variable, value in GRAFANA.items():
            expression = expression.replace(variable, value)
        result = self._get("query", query=expression)["result"]
        samples = [(each["metric"], float(each["value"][1])) for each in result]
        return [sample for sample in samples if not math.isnan(sample[1])]

    def alert_states(self) -> dict[str, str]:
        """`inactive`, `pending` or `firing`, by alert."""
        rules = [rule for group in self._get("rules")["groups"] for rule in group["rules"]]
        unwell = [rule["name"] for rule in rules if rule["health"] == "err"]
        assert not unwell, f"rules that cannot be evaluated: {unwell}"
        return {rule["name"]: rule["state"] for rule in rules if rule["type"] == "alerting"}

    def texts(self, alert: str) -> dict[str, str]:
        """The annotations of an alert that is pending or fires, as a person receives them; empty before that."""
        active = [each for each in self._get("alerts")["alerts"] if each["labels"]["alertname"] == alert]
        return active[0]["annotations"] if active else {}

    def _get(self, path: str, **params: str) -> Any:
        answer = self._client.get(path, params=params).json()
        assert answer["status"] == "success", f"{params}: {answer['error']}"
        return answer["data"]

    def close(self) -> None:
        self._client.close()
        self._process.kill()
        self._process.wait()


def _config(ports: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    config: dict[str, Any] = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
    config["rule_files"] = [str(RULES)]
    assert {scrape["job_name"] for scrape in config["scrape_configs"]} == set(ports)
    for scrape in config["scrape_configs"]:
        del scrape["dns_sd_configs"]
        targets = [f"127.0.0.1:{port}" for port in ports[scrape["job_name"]]]
        scrape["static_configs"] = [{"targets": targets}]
    return config
