"""The ways in are true: docs/start.md shows commands that the tests of other pages run, docs/faq.md has answers."""

from __future__ import annotations

import re

import pytest
import typer.main

from daemon.cli.main import app
from tests.docs.pages import ROOT, Block, blocks_of

SHOWN_ELSEWHERE = "".join(
    (ROOT / page).read_text("utf-8") for page in ("README.md", "docs/http.md", "docs/operating.md")
)
[_, *QUESTIONS] = (ROOT / "docs" / "faq.md").read_text("utf-8").split("\n### ")


@pytest.mark.parametrize("block", blocks_of("docs/start.md"), ids=lambda block: block.text.split("\n")[0])
def test_a_command_of_the_start_stands_on_a_page_whose_commands_are_run(block: Block) -> None:
    assert block.text in SHOWN_ELSEWHERE


def test_there_are_as_many_questions_as_the_readme_says() -> None:
    assert len(QUESTIONS) == 20


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.split("\n")[0])
def test_a_question_has_a_short_answer_with_a_link(question: str) -> None:
    title, answer = question.split("\n\n", 1)
    assert title.endswith("?")
    answer = answer.split("\n\n## ")[0]
    *_, see = re.split(r"\bSee\b", answer)
    assert "](" in see, "it ends with the page that says more"


def test_the_commands_of_the_answers_exist() -> None:
    known = typer.main.get_group(app)
    named = set(re.findall(r"`pixmill ([a-z]+)", "".join(QUESTIONS)))
    assert named
    assert named <= {*known.commands}


def test_every_page_is_in_the_table_of_pages_and_no_folder_is_crowded() -> None:
    start = (ROOT / "docs" / "start.md").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "start.md" or f"]({name})" in start, name
    for folder in ((ROOT / "docs"), *(path for path in (ROOT / "docs").iterdir() if path.is_dir())):
        assert sum(1 for path in folder.iterdir() if path.is_file()) <= 16, folder.name
