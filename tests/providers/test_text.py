"""Text of others is shown with escapes, and otherwise as it is."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pixmill.text import nearest, shortened, visible, visible_json

JOINERS = "\u00ad\u200c\u200d"


@given(st.text(st.characters()))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for char in visible(text):
        assert unicodedata.category(char) not in ("Cc", "Zl", "Zp", "Cs")
        assert unicodedata.bidirectional(char) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )


@given(st.text(st.characters(categories=("L", "N", "P", "S", "M", "Zs"), include_characters=JOINERS)))
def test_text_that_people_read_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(st.dictionaries(st.text(), st.text()))
def test_json_means_the_same(content: dict[str, str]) -> None:
    document = visible_json(json.dumps(content, ensure_ascii=False))
    assert json.loads(document) == content
    assert visible(document) == document


def test_lines_stay_lines_where_that_is_wanted() -> None:
    assert visible("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"
    assert visible("a\n\tb") == "a\\n\\tb"


def test_the_nearest_name_is_found_for_a_slip_and_for_none_that_is_far() -> None:
    known = ["images", "requests", "in_flight"]
    assert nearest("imagse", known) == "images"
    assert nearest("colour", known) is None
    assert nearest("colour", known, cutoff=0) in known
    assert nearest("i" * 1_000_000, known) is None


def test_a_shortened_text_has_at_most_its_limit_of_characters() -> None:
    assert [shortened("abcd", limit) for limit in (3, 4, 5)] == ["ab\u2026", "abcd", "abcd"]
