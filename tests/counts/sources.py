"""Leads each line of an assembled script back to the file that it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FILES: Final = {
    path: path.read_text("utf-8")
    for room in ("daemon", "limiter")
    for path in sorted((ROOT / room).rglob("*.lua"))
}
INCLUDE: Final = re.compile(r"-- @include (?P<name>[a-z0-9_]+)[ \t]*")
ONE_LINE: Final = re.compile(r"local function .*\bend( *--.*)?$")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, by its number from 1."""

    path: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.number}"


@dataclass(frozen=True, slots=True)
class Source:
    """An assembled script: the name of its file, and where each of its lines comes from."""

    name: str
    lines: tuple[Line, ...]


@cache
def source_of(text: str) -> Source:
    """The script that is sent as `text`. Raises LookupError if no file becomes that text."""
    for path in FILES:
        lines = _kept(_whole(path), text.rstrip("\n").split("\n"))
        if lines is not None:
            return Source(path.stem, lines)
    beginning = text.split("\n", 1)[0]
    raise LookupError(
        f"No Lua file becomes the script that begins with `{beginning}`. Does tests/counts/sources.py still assemble "
        "scripts as limiter/script.py does?"
    )


@cache
def _whole(path: Path) -> tuple[Line, ...]:
    return tuple(_lines(path, set()))


def _lines(path: Path, seen: set[str]) -> Iterator[Line]:
    """The lines of a script with its includes, each at its first mention."""
    for number, text in enumerate(FILES[path].rstrip("\n").split("\n"), 1):
        include = INCLUDE.fullmatch(text)
        if include is None:
            yield Line(path, number, text)
        elif include["name"] in seen:
            yield Line(path, number, "")
        else:
            seen.add(include["name"])
            yield from _lines(_include(path, include["name"]), seen)


def _include(user: Path, name: str) -> Path:
    """The file of an include: of the same package, or else of another one."""
    scripts = next(folder for folder in user.parents if folder.name == "scripts")
    shared = (path for path in FILES if path.parent.name == "include" and path.stem == name)
    return min(shared, key=lambda path: scripts not in path.parents)


def _kept(whole: Sequence[Line], sent: Sequence[str]) -> tuple[Line, ...] | None:
    """The lines that are sent: those of the whole script without some comments and functions. None if they differ."""
    kept, at = [], 0
    for text in [*sent, None]:
        while at < len(whole) and whole[at].text != text:
            after = _after_comment_or_function(whole, at)
            if after is None:
                return None
            at = after
        if at < len(whole):
            kept.append(whole[at])
        at += 1
    return tuple(kept) if len(kept) == len(sent) else None


def _after_comment_or_function(whole: Sequence[Line], at: int) -> int | None:
    """The place after the comment, the empty line or the function that begins at `at`; None if nothing of that does."""
    text = whole[at].text
    if not text or text.lstrip().startswith("--") or ONE_LINE.match(text):
        return at + 1
    if not text.startswith("local function "):
        return None
    ends = (place for place in range(at + 1, len(whole)) if whole[place].text.startswith("end"))
    return next(ends, len(whole) - 1) + 1
