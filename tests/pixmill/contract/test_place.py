"""The place of a refused field: its line and column, in any form of the JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixmill.contract import Place, place_of

JOB = b"""{"id": "a",
  "params": {"a.b": 1, "a": {"b": [10, {"c": null}]}},
  "n":   99 }"""


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("n", Place("n", 3, 10, "99")),
        ("params.a.b", Place("params.a.b", 2, 21, "1")),  # a name with a dot is one name first
        ("params.a.b.1.c", Place("params.a.b", 2, 21, "1")),
        ("params", Place("params", 2, 13, "an object of 2 fields")),
        ("prompt", Place("", 1, 1, "an object of 3 fields")),  # missing: the object that lacks it
        ("params.none", Place("params", 2, 13, "an object of 2 fields")),
        ("id.deeper", Place("id", 1, 8, '"a"')),
    ],
)
def test_a_path_leads_to_its_value_or_to_the_object_that_lacks_it(field: str, place: Place) -> None:
    assert place_of(JOB, field) == place


@pytest.mark.parametrize("data", [b"{not json", b"", b"{", b"[1,", b'{"n"', b'{"n":', b"\xff", b"[" * 5000])
def test_data_that_is_no_json_has_no_places(data: bytes) -> None:
    assert place_of(data, "n") is None


def test_the_last_of_two_equal_names_is_the_place() -> None:
    assert place_of(b'{"n": 1, "n": 2}', "n") == Place("n", 1, 15, "2")


def test_a_value_that_may_be_a_secret_is_not_shown() -> None:
    planted = b'{"prompt": 7, "size": "sk-planted-4f9a8b7c6d5e4f3a2b1c"}'
    assert place_of(planted, "size") == Place("size", 1, 23, "a text of 31 characters")


def _paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = [(path, value)] if path else []
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        found += _paths(inner, (*path, str(step)))
    return found


names = st.text(st.characters(blacklist_characters=".", codec="utf-8"), min_size=1, max_size=5)
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@given(
    payload=st.dictionaries(names, values, max_size=5), indent=st.sampled_from([None, 1]), plain=st.booleans()
)
def test_every_value_is_found_where_it_stands(
    payload: dict[str, Any], indent: int | None, plain: bool
) -> None:
    text = json.dumps(payload, indent=indent, ensure_ascii=plain)
    lines = text.split("\n")
    for path, value in _paths(payload):
        place = place_of(text.encode(), ".".join(path))
        assert place is not None
        assert place.field == ".".join(path)
        rest = "\n".join([lines[place.line - 1][place.column - 1 :], *lines[place.line :]])
        assert json.JSONDecoder().raw_decode(rest)[0] == value
