"""The benchmark of HTTP still runs, end to end, on a small scale, and says on which machine it ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import percentile
from benchmarks.http.__main__ import SCENARIOS, report, summarise
from benchmarks.tables import __main__ as tables
from tests.benchmarks.smoke import run_small

SMALL = {"seconds": 1, "short-s": 0.3, "listeners": 10, "events": 5, "pictures": 5, "repeats": 1}


@pytest.mark.timeout(120)
def test_every_scenario_runs_and_leaves_its_figures(tmp_path: Path) -> None:
    _, document = run_small("http", tmp_path, *(f"--{name}={value}" for name, value in SMALL.items()))
    assert [run["scenario"] for run in document["runs"]] == list(SCENARIOS)
    figures = {
        (row["scenario"], figure["name"]): figure["value"]
        for row in document["summary"]
        for figure in row["figures"]
    }
    for name in ("steady", "posts", "waiting", "ended"):
        assert figures[name, "errors"] == 0
    assert figures["events", "frames lost"] == figures["archive", "broken"] == 0
    assert all(figures["previews", f"s by {door}"] > 3 for door in ("jobs", "openai", "pictures"))
    table = tables.http(document)
    assert all(scenario.title in table for scenario in SCENARIOS.values())
    assert {"uvicorn", "server"} <= document["environment"]["versions"].keys()


def test_a_busy_machine_and_a_missed_bound_are_shown() -> None:
    run = {"scenario": "idle", "figures": [{"name": "MB", "value": 120.0, "reached": False, **BOUND}]}
    rows = summarise([run])
    about = {"load_average": (4.0, 4.0, 4.0), "cpus": 2, "versions": {"python": "3.13"}}
    text = report(rows, about)
    assert "an idle gateway: MISSED\n  120 MB (<= 100)" in text
    assert "load 4.0 before the start: the machine was busy" in text
    assert "busy" not in report(rows, {**about, "load_average": (0.5, 4.0, 4.0)})


BOUND = {"at_most": 100.0, "at_least": None, "digits": 0}


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = list(range(1, 201))
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (100, 198, 200)
    assert percentile([7.0], 99) == 7.0
