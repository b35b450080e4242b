"""The figures of the documentation are those of the files of results."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from benchmarks import __main__ as bench
from benchmarks.tables import __main__ as tables
from benchmarks.tables.__main__ import BLOCK, PARTS, filled, pages, read_results
from benchmarks.tables.goals import GOALS, goals

ABOUT = {"date": "2026-12-01 01:00:00 UTC", "python": "3.11", "cpus": 2, "server": "Valkey 9"}
QUIET, BUSY = {**ABOUT, "load_average": [0.5, 0, 0]}, {**ABOUT, "load_average": [1.5, 0, 0]}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_figures_of_a_page_are_those_of_the_files(page: Path) -> None:
    text = page.read_text("utf-8")
    assert filled(text, read_results()) == text, "run `python -m benchmarks.tables`"


def test_every_part_has_its_figures_on_a_page() -> None:
    blocks = {found[2] for page in pages() for found in BLOCK.finditer(page.read_text("utf-8"))}
    assert blocks >= {*PARTS, "goals"} - {"today"}, "`today` has a page of its own"


def test_every_file_of_results_belongs_to_a_part() -> None:
    for name, document in read_results().items():
        assert name in PARTS
        assert document.keys() >= {"environment", "summary", "runs"}, name


def test_a_block_is_made_anew_and_the_text_around_it_stays() -> None:
    results = {"start": document([{"what": "ready", "median_s": 1.234, "runs": [1], "goal": None}], QUIET)}
    text = "# Start\n\n<!-- figures: start -->\nold\n<!-- end -->\n\nThe end.\n"
    assert filled(text, results) == (
        "# Start\n\n<!-- figures: start -->\n| what | median s | goal |\n| --- | --- | --- |\n| ready | 1.23 | - |\n\n"
        "Valkey 9, Python 3.11, 2 cores, load 0.5 before the start, 2026-12-01.\n<!-- end -->\n\nThe end.\n"
    )
    assert filled(filled(text, results), results) == filled(text, results)


def test_figures_of_a_busy_machine_say_so_and_show_no_ratio() -> None:
    results = {"start": document([{"what": "ready", "to_saq": 1.25}], BUSY)}
    text = filled("<!-- figures: start -->\n<!-- end -->", results)
    assert "No ratio: the load was 1.5" in text
    assert "1.25" not in text


def test_a_block_without_its_file_stays_and_an_unknown_one_is_an_error() -> None:
    text = "<!-- figures: start -->\nold\n<!-- end -->"
    assert filled(text, {}) == text
    with pytest.raises(SystemExit, match="'strat'; there are"):
        filled(text.replace("start", "strat"), {})


def test_the_readme_shows_what_an_item_costs_beside_the_peers() -> None:
    contestants = [contestant("bare", 10_000), contestant("pixmill", 4000), contestant("saq", 1000)]
    about = QUIET | {"items": 20_000, "concurrency": 100, "repeats": 3}
    text = tables.readme_throughput(document(contestants, about))
    assert "| Pixmill | 4,000 | 90 + 110 us | 4 | 0.4 |" in text
    assert "bare 1" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    chinese = filled(
        "<!-- figures: readme-throughput-zh -->\n<!-- end -->",
        {"throughput": document(contestants, about)},
    )
    assert [line for line in chinese.splitlines() if line.startswith("|")][1:] == rows[1:]


def test_a_figure_stands_beside_its_bound() -> None:
    rows = [
        {"name": "s", "value": 1.26, "least": 1.0, "most": 2.0, "digits": 1, "at_least": None, "at_most": 1.5}
    ]
    assert "| s | 1.3 | 1.0 to 2.0 | <= 1.5 |" in tables.plain(document(rows, QUIET))


def test_a_scenario_of_http_has_its_title_once_and_all_its_figures() -> None:
    bounds = {"at_least": None, "at_most": 5.0, "digits": 1}
    figures = [
        {"name": f"ms {name}", "value": 1.26, "least": 1.0, "most": 2.0, **bounds} for name in ("p50", "p99")
    ]
    row = {"scenario": "steady", "title": "POST at a pace", "figures": figures, "reached": True}
    text = filled("<!-- figures: http -->\n<!-- end -->", {"http": document([row], QUIET)})
    assert "| POST at a pace | ms p50 | 1.3 | 1.0 to 2.0 | <= 5 |\n| | ms p99 | 1.3 |" in text


def test_a_paced_item_has_its_steps_and_longest_runs() -> None:
    steps = [{"mode": "now", "step": "settle", "median_us": 90, "mean_us": 95.5}]
    found = {"steps": steps, "cpu_us": {"now": 610.4}, "longest_us": {"settle": 900, "accept": 2100}}
    text = tables.paced(document([found], QUIET))
    assert "| now | settle | 90 | 95.5 |" in text
    assert "| now | CPU of the server | 610 | - |" in text
    assert text.endswith("accept 2,100, settle 900.")
    shown = goals({"paced": document([found], QUIET)})
    assert "| 0.61 ms (slot now) |" in shown
    assert "| 2.1 ms (accept) |" in shown


def test_the_goals_show_what_was_measured_and_what_was_not() -> None:
    contestants = [contestant("pixmill", 4000), contestant("saq", 1000), contestant("bare", 10_000)]
    text = goals({"throughput": document(contestants, QUIET)})
    assert len(text.splitlines()) == len(GOALS) + 2
    assert "| 4.0 x (saq), 0.40 |" in text
    assert "| 90 / 110 us |" in text
    assert "| not measured |" in text


def test_a_part_that_fails_keeps_its_results_and_one_that_is_not_there_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "QUIET_WITHIN_S", 0.0)
    monkeypatch.setattr(tables, "PARTS", {"missing": "missing", "throughput": "drain.throughput"})
    (tmp_path / "throughput.json").write_text(json.dumps({"kept": True}))
    monkeypatch.setenv("TEST_REDIS_SERVER", str(tmp_path / "no-server"))
    assert bench.main(["--results", str(tmp_path)]) == 1
    assert "no benchmarks.missing here" in capfd.readouterr().out
    assert json.loads((tmp_path / "throughput.json").read_text()) == {"kept": True}


@pytest.mark.parametrize("code", [0, 1])
def test_a_part_that_misses_a_bound_keeps_its_results_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    def measured(command: list[str], **_: object) -> CompletedProcess[str]:
        Path(command[-1]).write_text("{}")
        return CompletedProcess(command, code)

    monkeypatch.setattr(bench, "QUIET_WITHIN_S", 0.0)
    monkeypatch.setattr(subprocess, "run", measured)
    assert bench.main(["--only", "http", "--results", str(tmp_path)]) == code
    assert ("These parts missed a bound: http." in capfd.readouterr().err) == bool(code)
    assert (tmp_path / "http.json").exists()


def document(summary: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    return {"environment": about, "summary": summary, "runs": []}


def contestant(name: str, median: float) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1",
        "median": median,
        "worker_cpu_us": 90.2,
        "server_cpu_us": 110.1,
        "to_bare": median / 10_000,
        "to_best_peer": median / 1000,
    }
