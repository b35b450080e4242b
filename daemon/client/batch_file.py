"""Reads a CSV or JSONL file into the items of a batch, or tells every problem in it with its line.

CSV has a header row. Columns named like job fields fill them (`params.X`, `metadata.X`, `output.X` reach
inside; `inputs` holds URLs with spaces between); all other columns are there for the prompt template.
"""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from daemon.client.sending import ids_of
from daemon.contract import BATCH_TYPE, BatchItem, Rejection, load_object, parse_payload

WHOLE_NUMBERS = frozenset({"n", "seed", "max_attempts"})
TEXTS = frozenset(
    {"id", "prompt", "negative_prompt", "size", "route", "priority", "not_before", "expires_at", "deadline"}
    | {"on_unknown_outcome", "cache"}
)
INSIDE = ("params", "metadata", "output")
MOST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in one line (counted from 1, as editors do)."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


class BatchFileError(Exception):
    """The file cannot be sent; `problems` has everything that is wrong, in the order of the lines."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(f"{path.name}, {problem}" for problem in self.problems))


@dataclass(slots=True)
class _Reading:
    """One pass over a file: what was understood so far, and what was not."""

    template: Template | None
    defaults: Mapping[str, Any]
    items: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)

    def complain(self, line: int, message: str) -> None:
        self.problems.append(Problem(line, message))


def read_batch_file(
    path: Path, *, prompt_template: str | None = None, defaults: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The items of a file, each with an id (`row-0001` where none is given), valid under the contract.

    `.jsonl` and `.ndjson` hold one job object a line; anything else is read as CSV in UTF-8, with commas,
    semicolons or tabs. `defaults` are the job fields that the batch gives to all. Raises BatchFileError with every
    problem, OSError for a file that cannot be read, ValueError for a template that cannot be.
    """
    template = Template.parse(prompt_template) if prompt_template is not None else None
    reading = _Reading(template, defaults or {})
    text = _text(path, reading)
    if text is not None:
        rows = _json_rows if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows
        for number, (line, values, item) in enumerate(rows(text, reading), 1):
            _add(reading, number, line, values, item)
        if not reading.items and not reading.problems:
            reading.complain(1, "there is no job in this file.")
    if reading.problems:
        raise BatchFileError(path, reading.problems)
    return reading.items


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with `{column}` in it; `{{` and `}}` are braces."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises ValueError, with a sentence, for anything but plain column names in braces."""
        try:
            parsed = [
                (literal, name, spec, how) for literal, name, spec, how in string.Formatter().parse(text)
            ]
        except ValueError as error:
            raise ValueError(
                f"the prompt template cannot be read ({error}); write {{{{ for a brace."
            ) from None
        for _, name, spec, how in parsed:
            if name is not None and (not name or spec or how):
                raise ValueError(
                    "the prompt template may only name columns, as in {title}; write {{ for a brace."
                )
        return cls(tuple((literal, name) for literal, name, _, _ in parsed))

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in self.parts if name is not None))

    def fill(self, values: Mapping[str, str]) -> str:
        return "".join(literal + (values[name] if name is not None else "") for literal, name in self.parts)


Row = tuple[int, Mapping[str, str], dict[str, Any]]  # the line, what a template may use, the job's own fields


def _add(reading: _Reading, number: int, line: int, values: Mapping[str, str], item: dict[str, Any]) -> None:
    if reading.template is not None:
        if missing := [name for name in reading.template.names if not values.get(name, "").strip()]:
            # An empty place would be paid for like any other prompt.
            names = ", ".join(f"`{name}`" for name in missing)
            reading.complain(line, f"the prompt template needs {names}, which is empty here.")
            return
        item["prompt"] = reading.template.fill(values)
    item = {"id": item.pop("id", None) or f"row-{number:04d}", **item}
    if (problem := _problem(item, reading.defaults)) is not None:
        reading.complain(line, problem)
        return
    for taken in ids_of(item["id"], item.get("n", reading.defaults.get("n", 1))):
        if (first := reading.ids.setdefault(taken, line)) != line:
            reading.complain(
                line, f'the id "{taken}" is already taken in line {first}; ids are unique in a batch.'
            )
            return
    reading.items.append(item)


def _problem(item: dict[str, Any], defaults: Mapping[str, Any]) -> str | None:
    """What the contract does not allow, as a sentence about the item alone."""
    try:
        parse_payload(orjson.dumps({"id": "batch", "defaults": dict(defaults), "items": [item]}), BATCH_TYPE)
    except Rejection as rejection:
        return rejection.message.replace("`items.0.", "`").replace("`items.0`", "the line")
    return None


def _text(path: Path, reading: _Reading) -> str | None:
    data = path.read_bytes()
    if len(data) > MOST_BYTES:
        reading.complain(
            1, f"the file is larger than {MOST_BYTES // 1024**2} MiB; send it as several batches."
        )
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        reading.complain(line, "the text is not UTF-8; save the file as UTF-8 (in Excel: `CSV UTF-8`).")
        return None


def _json_rows(text: str, reading: _Reading) -> Iterator[Row]:
    # Not splitlines(): JSON may hold the separators of other alphabets inside its texts.
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            item = load_object(row.encode())
        except Rejection as rejection:
            reading.complain(line, rejection.message.replace("`data`", "the line"))
            continue
        values = {name: str(value) for name, value in item.items() if isinstance(value, str | int | float)}
        names = reading.template.names if reading.template else []
        if missing := [name for name in names if name not in values]:
            reading.complain(line, _no_column(missing, values))
            continue
        # What only the template uses is no job field, so it goes no further.
        own = {name: item[name] for name in item if name in BatchItem.known_fields or name not in names}
        yield line, values, own


def _csv_rows(text: str, reading: _Reading) -> Iterator[Row]:
    header: list[str] | None = None
    for line, cells in _table(text, reading):
        if header is None:
            header = cells
            if not _header_is_right(header, line, reading):
                return
            continue
        if any(cells[len(header) :]):
            reading.complain(
                line, f"has {len(cells)} cells, and the header has {len(header)}; put quotes around commas."
            )
            continue
        values = dict(zip(header, cells, strict=False))
        try:
            yield line, {name: values.get(name, "") for name in header}, _fields(values)
        except ValueError as error:
            reading.complain(line, str(error))


def _table(text: str, reading: _Reading) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line in which it begins."""
    header = next((row for row in text.splitlines() if row.strip()), "")
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        # A quoted cell may hold line breaks, so a row begins where the one before it ended.
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            never_closed = "end of data" in str(error) or "field limit" in str(error)
            reading.complain(
                line,
                "a quote is opened and never closed."
                if never_closed
                else "a quote inside a quoted cell must be written twice.",
            )
            return
        if any(cells):
            yield line, cells


def _header_is_right(header: list[str], line: int, reading: _Reading) -> bool:
    known = [name for name in header if name]
    if doubled := sorted({name for name in known if known.count(name) > 1}):
        reading.complain(line, f"two columns are called {', '.join(f'`{name}`' for name in doubled)}.")
        return False
    if reading.template is not None and (missing := [n for n in reading.template.names if n not in known]):
        reading.complain(line, _no_column(missing, known))
        return False
    if reading.template is None and "prompt" not in known and not reading.defaults.get("prompt"):
        reading.complain(
            line,
            f"there is no column `prompt`; the columns are {', '.join(known)}. "
            'A --prompt-template such as "{title}, white background" makes prompts from other columns.',
        )
        return False
    return True


def _no_column(missing: list[str], known: Mapping[str, str] | list[str]) -> str:
    names = ", ".join(f"`{name}`" for name in missing)
    return (
        f"the prompt template names {names}, which is not there; there is: {', '.join(known) or 'nothing'}."
    )


def _fields(values: Mapping[str, str]) -> dict[str, Any]:
    """The cells of a row that are job fields, in their types; an empty one gives nothing. Raises ValueError."""
    item: dict[str, Any] = {}
    for name, cell in values.items():
        if not cell:
            continue
        outer, _, inner = name.partition(".")
        if name in TEXTS or name.startswith("x_"):
            item[name] = cell
        elif name in WHOLE_NUMBERS:
            item[name] = _whole(name, cell)
        elif name in ("inputs", "input"):
            item.setdefault("inputs", []).extend({"url": url} for url in cell.split())
        elif outer in INSIDE and inner:
            item.setdefault(outer, {})[inner] = cell if outer == "metadata" else _scalar(cell)
    return item


def _whole(name: str, cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        raise ValueError(f'`{name}` must be a whole number, not "{cell[:40]}".') from None


def _scalar(cell: str) -> str | int | float | bool:
    """Numbers and booleans as JSON writes them; everything else is a text."""
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell
    return value if isinstance(value, str | int | float | bool) else cell
