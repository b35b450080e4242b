"""Both READMEs and docs/measured/today.md show the results of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.today import __main__ as today
from benchmarks.today.figures import Row
from benchmarks.today.pages import (
    BEGIN,
    CHINESE,
    END,
    ENGLISH,
    PAGE,
    RESULTS,
    page,
    readme,
    rows_of,
    shown,
    with_block,
)
from benchmarks.today.plot import LOOKS, Look, digest, draw
from benchmarks.today.strategies import STRATEGIES
from benchmarks.today.terms import ACCOUNTS

PICTURES = PAGE.parents[1] / "pictures"
CLOCKS = ("virtual", "small", "real")


def results() -> tuple[list[Row], dict[str, object]]:
    document = json.loads(RESULTS.read_text())
    return rows_of(document), document["environment"]


def test_the_pages_have_the_figures_of_the_results() -> None:
    rows, environment = results()
    blocks = {words.path: readme(rows, words) for words in (ENGLISH, CHINESE)}
    for path, text in {**blocks, PAGE: page(rows, environment)}.items():
        shown_now = path.read_text("utf-8")
        assert shown_now == with_block(shown_now, text), f"{path.name}: run `make today-plot`"


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.name)
def test_the_plots_are_of_the_results(look: Look) -> None:
    rows, _ = results()
    expected = f"figures {digest(shown(rows))}"
    name = f"today-{look.name}"
    assert expected in (PICTURES / f"{name}.svg").read_text(), "run `make today-plot`"
    with Image.open(PICTURES / f"{name}.png") as picture:
        assert picture.info["Description"] == expected, "run `make today-plot`"


def test_the_results_have_every_strategy_on_every_account() -> None:
    rows, _ = results()
    expected = {(terms.name, name) for terms in ACCOUNTS for name in STRATEGIES}
    for clock in {"virtual", *(row.clock for row in rows)}:
        assert {(row.account, row.strategy) for row in rows if row.clock == clock} == expected


def test_times_of_a_busy_machine_are_not_compared() -> None:
    rows = [Row(**{**vars(row), "clock": clock}) for row in shown(results()[0]) for clock in CLOCKS]
    facts = {"server": "Valkey 9", "python": "3.11", "cpus": 2}
    quiet, busy = (page(rows, {**facts, "load_average": [load]}) for load in (0.9, 1.1))
    assert "difference" in quiet
    assert "difference" not in busy
    assert "busy (load 1.1" in busy


def test_the_page_says_what_each_strategy_does() -> None:
    lines = PAGE.read_text().splitlines()
    for strategy in STRATEGIES.values():
        assert f"| {strategy.title} | {strategy.sentence} |" in lines


def test_another_figure_is_another_digest() -> None:
    rows, _ = results()
    first, *others = shown(rows)
    for change in ({"times_optimum": 9.0}, {"refused": 9.0}, {"bad_lost": 9.0}, {"bad_paid_a_picture": 9.0}):
        assert digest([Row(**{**vars(first), **change}), *others]) != digest([first, *others])


def test_a_page_without_its_marks_is_refused() -> None:
    assert with_block(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="needs the marks"):
        with_block("a page", "new")


def test_the_plot_is_drawn_from_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only the group `plot` has it")
    rows, _ = results()
    paths = draw(shown(rows), tmp_path)
    assert [path.name for path in paths] == [
        f"today-{look.name}.{suffix}" for look in LOOKS for suffix in ("svg", "png")
    ]
    assert all(path.stat().st_size > 10_000 for path in paths)


@pytest.mark.timeout(120)
def test_a_small_run_prints_and_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deeper" / "today.json"
    assert today.main(["--seeds", "1", "--only", "groups", "pixmill-1", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert [(row["account"], row["strategy"]) for row in document["summary"]] == [
        (terms.name, name) for terms in ACCOUNTS for name in ("groups", "pixmill-1")
    ]
    assert len(document["runs"]) == 8
    assert "Pixmill, 1 replica" in capsys.readouterr().out
