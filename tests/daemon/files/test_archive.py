"""Names and tables of an archive, for items whose ids, metadata and templates are foreign text."""

from __future__ import annotations

import csv
import io
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from daemon.files.archive import pictures_of, table
from daemon.files.prompt_template import PromptTemplate
from pixmill.records.keys import Uid
from pixmill.records.records import ItemView

FORMULAS = ("=1+1", " =1+1", "\n=1+1", "\t@x", "\u3000+1", "-2", "＝1+1", "\r")


def item(ident: str, **metadata: str) -> ItemView:
    image = {"key": f"default/{ident}.png", "width": 16, "height": 16}
    return ItemView(
        Uid("default", "b1", ident),
        *(ident, "succeeded", "default", "normal", "queue", 1, 5),
        metadata,
        {"prompt": "x"},
        datetime.now(UTC),
        {},
        result={"images": [image]},
    )


def calls_for(count: int) -> int:
    """The calls that it takes to name so many pictures alike."""
    items, template, calls = [item(f"i{k}") for k in range(count)], PromptTemplate("same"), 0

    def see(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        found = pictures_of(items, template)
    finally:
        sys.setprofile(None)
    assert len({picture.file for picture in found}) == count
    return calls


def test_equal_names_are_numbered_without_a_look_at_all_before() -> None:
    assert calls_for(400) < 3 * calls_for(200)


def test_a_number_that_is_a_name_already_is_stepped_over() -> None:
    names = ["a", "a-2", "A", "a-2", "a"]
    found = pictures_of([item(f"i{k}", name=name) for k, name in enumerate(names)], PromptTemplate("{name}"))
    assert [picture.file for picture in found] == ["a.png", "a-2.png", "A-3.png", "a-2-2.png", "a-4.png"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_the_table_is_a_formula(text: str) -> None:
    content = table(pictures_of([item("i0", **{text: text})])).decode("utf-8-sig")
    head, row = csv.reader(io.StringIO(content, newline=""))
    assert (head[-1], row[-1]) == (f"'{text}", f"'{text}")
