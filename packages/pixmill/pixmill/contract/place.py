"""Finds the line and column of a field in a refused payload, for its producer.

The path comes from a Rejection (`items.3.size`). A name in it may contain dots, so longer names are tried too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in json.decoder, not in its stubs
from typing import Any

from pixmill.contract.rejection import shown

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Place:
    """A value in a payload. `line` and `column` count from 1, in characters; `shown` is safe to show.

    `field` is the part of the path that exists; the rest may be missing.
    """

    field: str
    line: int
    column: int
    shown: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON answers."""
        return {"field": self.field, "line": self.line, "column": self.column, "value": self.shown}


def place_of(data: bytes, field: str) -> Place | None:
    """Where the value of `field` stands in the JSON text `data`; None where it has none."""
    text = data.decode("utf-8", "replace")
    try:
        at, found = _descend(text, field)
        value, _ = _DECODER.raw_decode(text, at)
    except (ValueError, IndexError, RecursionError, StopIteration):
        return None  # no JSON, or broken before the field
    line_start = text.rfind("\n", 0, at) + 1
    return Place(found, text.count("\n", 0, at) + 1, at - line_start + 1, shown(value))


def _descend(text: str, field: str) -> tuple[int, str]:
    """The offset of the value at the path, or of the nearest value above it, and the path to that."""
    at, path, rest = _skip(text, 0), "", field
    while rest:
        # The last of two equal names counts, as for any reader of JSON.
        members = {name: place for name, place in _members(text, at) if f"{rest}.".startswith(f"{name}.")}
        if not members:
            break
        name = max(members, key=len)
        at, rest = members[name], rest[len(name) + 1 :]
        path = f"{path}.{name}" if path else name
    return at, path


def _members(text: str, at: int) -> Iterator[tuple[str, int]]:
    """The names in the object or list at this offset, with the offsets of their values; nothing for other values."""
    closing = {"{": "}", "[": "]"}.get(text[at : at + 1])
    if closing is None:
        return
    at = _skip(text, at + 1)
    index = 0
    while text[at] != closing:
        name = str(index)
        if closing == "}":
            name, at = scanstring(text, at + 1)
            at = _skip(text, _skip(text, at) + 1)
        yield name, at
        _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
        index += 1


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # noqa: S101 - the pattern also matches nothing
    return match.end()
