"""Where in a refused payload a field stands: the line and column that its producer looks at.

The path is that of a Rejection (`items.3.size`), so names that contain a dot are tried as a whole, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in json.decoder, not in its stubs
from typing import Any, NamedTuple

from daemon.contract.rejection import shown

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Place:
    """A value in a payload. `line` and `column` count from 1, in characters; `shown` is safe to show.

    `field` is what was found: the nearest part of the path that is there, where the rest of it is missing.
    """

    field: str
    line: int
    column: int
    shown: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON answers."""
        return {"field": self.field, "line": self.line, "column": self.column, "value": self.shown}


def place_of(data: bytes, field: str) -> Place | None:
    """Where the value of `field` stands in the JSON text `data`; None where that cannot be told."""
    text = data.decode("utf-8", "replace")
    try:
        at, found = _descend(text, field)
        value, _ = _DECODER.raw_decode(text, at)
    except (ValueError, IndexError, RecursionError, StopIteration):
        return None  # no JSON, or not as far as the field
    line_start = text.rfind("\n", 0, at) + 1
    return Place(found, text.count("\n", 0, at) + 1, at - line_start + 1, shown(value))


class _Member(NamedTuple):
    name: str
    at: int  # of its value


def _descend(text: str, field: str) -> tuple[int, str]:
    """The offset of the value at the path, or of the nearest value above it, and the path to that."""
    at, path, rest = _skip(text, 0), "", field
    while rest:
        matches = [
            member
            for member in _members(text, at)
            if rest == member.name or rest.startswith(f"{member.name}.")
        ]
        if not matches:
            break
        member = max(matches, key=lambda match: len(match.name))
        at, rest = member.at, rest[len(member.name) + 1 :]
        path = f"{path}.{member.name}" if path else member.name
    return at, path


def _members(text: str, at: int) -> Iterator[_Member]:
    """What the object or list at this offset holds; nothing for any other value. Of a doubled name the last counts."""
    if text[at : at + 1] not in ("{", "["):
        return
    is_object, closing = text[at] == "{", "}" if text[at] == "{" else "]"
    at = _skip(text, at + 1)
    index = 0
    while text[at] != closing:
        name = str(index)
        if is_object:
            name, at = scanstring(text, at + 1)
            at = _skip(text, _skip(text, at) + 1)
        yield _Member(name, at)
        _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
        index += 1


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # noqa: S101 - it matches nothing at all, too
    return match.end()
