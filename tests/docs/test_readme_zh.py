"""The Chinese README says what the README says: its commands are the same, so the README's tests run them."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from tests.docs.pages import ROOT, blocks_of

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
LINK = re.compile(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"")
OTHER_LANGUAGE = {"README.md": "README.zh.md", "README.zh.md": "README.md"}


class Section(NamedTuple):
    """The facts of a section that have no language, in an order that does not depend on its sentences."""

    numbers: list[str]
    links: list[str]


def sections_of(page: str) -> list[Section]:
    text = (ROOT / page).read_text("utf-8").replace(f"]({OTHER_LANGUAGE[page]})", "]", 1)
    words = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [
        Section(
            sorted(NUMBER.findall(LINK.sub("", section))),
            sorted(one or other for one, other in LINK.findall(section)),
        )
        for section in re.split(r"^## ", words, flags=re.MULTILINE)
    ]


ENGLISH, CHINESE = (sections_of(page) for page in OTHER_LANGUAGE)


def test_its_blocks_are_those_of_the_readme_in_their_order() -> None:
    assert blocks_of("README.zh.md") == blocks_of("README.md")


def test_it_has_the_sections_of_the_readme() -> None:
    assert len(CHINESE) == len(ENGLISH)


@pytest.mark.parametrize("section", range(len(ENGLISH)))
def test_a_section_has_the_figures_and_the_links_of_the_readme(section: int) -> None:
    assert CHINESE[section] == ENGLISH[section]


@pytest.mark.parametrize(("page", "other"), OTHER_LANGUAGE.items())
def test_each_readme_leads_to_the_other_at_its_top(page: str, other: str) -> None:
    assert f"]({other})" in (ROOT / page).read_text("utf-8").split("\n\n")[1]
