"""Reads a CSV or JSONL file into the items of a batch, or reports every problem in it with its line.

CSV has a header row. Columns named like job fields fill them (`params.X`, `metadata.X`, `output.X` reach
inside; `inputs` holds URLs with spaces between); all other columns are there for the prompt template.
"""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from daemon.contract import BATCH_TYPE, BatchItem, Rejection, load_object, parse_payload
from daemon.contract.batches import TakenIds

WHOLE_NUMBERS = frozenset({"n", "seed", "max_attempts"})
INSIDE = frozenset({"params", "metadata", "output"})
TEXTS = BatchItem.model_fields.keys() - WHOLE_NUMBERS - INSIDE - {"inputs", "callback"}
MOST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in one line (lines count from 1, as in editors)."""

    line: int
    message: str


class BatchFileError(Exception):
    """The file cannot be sent; `problems` lists every problem in the order of the lines."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(f"{path.name}, line {one.line}: {one.message}" for one in self.problems))


def read_batch_file(
    path: Path, *, prompt_template: str | None = None, defaults: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The items of a file, each with an id (`row-0001` where none is given), valid under the contract.

    `.jsonl` and `.ndjson` hold one job object a line; anything else is read as CSV in UTF-8, with commas,
    semicolons or tabs. `defaults` are the job fields that the batch gives to all. Raises BatchFileError with every
    problem, OSError for a file that cannot be read, ValueError for a wrong template.
    """
    reader = _Reader(_Template(prompt_template) if prompt_template is not None else None, defaults or {})
    reader.read(path.read_bytes(), is_json=path.suffix.lower() in (".jsonl", ".ndjson"))
    if reader.problems:
        raise BatchFileError(path, reader.problems)
    return reader.items


class _Template:
    """A prompt with `{column}` in it; `{{` and `}}` are braces. Raises ValueError for anything else in braces."""

    def __init__(self, text: str) -> None:
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(
                f"the prompt template cannot be read ({error}); write {{{{ for a brace."
            ) from None
        if any(name is not None and (not name or spec or how) for _, name, spec, how in parts):
            raise ValueError(
                "the prompt template may only name columns, as in {title}; write {{ for a brace."
            )
        self._parts = [(literal, name) for literal, name, _, _ in parts]
        self.names = list(dict.fromkeys(name for _, name in self._parts if name is not None))

    def fill(self, values: Mapping[str, str]) -> str:
        return "".join(literal + (values[name] if name is not None else "") for literal, name in self._parts)


Row = tuple[
    int, Mapping[str, str], dict[str, Any]
]  # the line, the values for a template, the job's own fields


class _Reader:
    """One pass over a file: the items so far, and the problems."""

    def __init__(self, template: _Template | None, defaults: Mapping[str, Any]) -> None:
        self.items: list[dict[str, Any]] = []
        self.problems: list[Problem] = []
        self._template = template
        self._names = template.names if template is not None else []
        self._defaults = defaults
        self._ids = TakenIds()

    def read(self, data: bytes, *, is_json: bool) -> None:
        if len(data) > MOST_BYTES:
            most = MOST_BYTES // 1024**2
            return self._complain(1, f"the file is larger than {most} MiB; send it as several batches.")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            return self._complain(
                line, "the text is not UTF-8; save the file as UTF-8 (in Excel: `CSV UTF-8`)."
            )
        rows = self._json_rows(text) if is_json else self._csv_rows(text)
        for number, (line, values, item) in enumerate(rows, 1):
            self._add(number, line, values, item)
        if not self.items and not self.problems:
            self._complain(1, "there is no job in this file.")
        return None

    def _complain(self, line: int, message: str) -> None:
        self.problems.append(Problem(line, message))

    def _add(self, number: int, line: int, values: Mapping[str, str], item: dict[str, Any]) -> None:
        if self._template is not None:
            if missing := [name for name in self._names if not values.get(name, "").strip()]:
                # A prompt with an empty place would be paid for like any other.
                return self._complain(
                    line, f"the prompt template needs {_quoted(missing)}, which is empty here."
                )
            item["prompt"] = self._template.fill(values)
        item = {"id": item.pop("id", None) or f"row-{number:04d}", **item}
        batch = {"id": "batch", "defaults": dict(self._defaults), "items": [item]}
        try:
            parse_payload(orjson.dumps(batch), BATCH_TYPE)
        except Rejection as rejection:
            return self._complain(
                line, rejection.message.replace("`items.0.", "`").replace("`items.0`", "the line")
            )
        if clash := self._ids.add(item["id"], item.get("n", self._defaults.get("n", 1)), line):
            taken, first = clash
            return self._complain(
                line, f'the id "{taken}" is already taken in line {first}; ids are unique in a batch.'
            )
        self.items.append(item)
        return None

    def _json_rows(self, text: str) -> Iterator[Row]:
        # Not splitlines(): JSON may hold the separators of other alphabets inside its texts.
        for line, row in enumerate(text.split("\n"), 1):
            if not row.strip():
                continue
            try:
                item = load_object(row.encode())
            except Rejection as rejection:
                self._complain(line, rejection.message.replace("`data`", "the line"))
                continue
            values = {
                name: str(value) for name, value in item.items() if isinstance(value, str | int | float)
            }
            if self._has_columns(line, values):
                # A field that only the template uses is not a job field, so it is not sent.
                known = BatchItem.model_fields
                yield (
                    line,
                    values,
                    {name: item[name] for name in item if name in known or name not in self._names},
                )

    def _csv_rows(self, text: str) -> Iterator[Row]:
        header: list[str] | None = None
        for line, cells in self._table(text):
            if header is None:
                header = cells
                if not self._header_is_right(header, line):
                    return
            elif any(cells[len(header) :]):
                self._complain(
                    line,
                    f"has {len(cells)} cells, and the header has {len(header)}; put quotes around commas.",
                )
            else:
                values = dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))
                try:
                    yield line, values, _fields(values)
                except ValueError as error:
                    self._complain(line, str(error))

    def _table(self, text: str) -> Iterator[tuple[int, list[str]]]:
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
                self._complain(
                    line,
                    "a quote is opened and never closed."
                    if never_closed
                    else "a quote inside a quoted cell must be written twice.",
                )
                return
            if any(cells):
                yield line, cells

    def _header_is_right(self, header: list[str], line: int) -> bool:
        known = [name for name in header if name]
        if doubled := sorted({name for name in known if known.count(name) > 1}):
            self._complain(line, f"two columns are called {_quoted(doubled)}.")
            return False
        if self._template is None and "prompt" not in known and not self._defaults.get("prompt"):
            self._complain(
                line,
                f"there is no column `prompt`; the columns are {', '.join(known)}. "
                'A --prompt-template such as "{title}, white background" makes prompts from other columns.',
            )
            return False
        return self._has_columns(line, known)

    def _has_columns(self, line: int, known: Iterable[str]) -> bool:
        """Whether the file has all names of the template; reports a problem otherwise."""
        missing = [name for name in self._names if name not in known]
        if missing:
            there = ", ".join(known) or "nothing"
            self._complain(
                line, f"the prompt template names {_quoted(missing)}, which is not there; there is: {there}."
            )
        return not missing


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _fields(values: Mapping[str, str]) -> dict[str, Any]:
    """The cells of a row that are job fields, in their types; an empty cell gives nothing. Raises ValueError."""
    item: dict[str, Any] = {}
    for name, cell in values.items():
        if not cell:
            continue
        outer, _, inner = name.partition(".")
        if name in TEXTS or name.startswith("x_"):
            item[name] = cell
        elif name in WHOLE_NUMBERS:
            try:
                item[name] = int(cell)
            except ValueError:
                raise ValueError(f'`{name}` must be a whole number, not "{cell[:40]}".') from None
        elif name in ("inputs", "input"):
            item.setdefault("inputs", []).extend({"url": url} for url in cell.split())
        elif outer in INSIDE and inner:
            item.setdefault(outer, {})[inner] = cell if outer == "metadata" else _scalar(cell)
    return item


def _scalar(cell: str) -> str | int | float | bool:
    """Numbers and booleans as JSON writes them; everything else is a text."""
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell
    return value if isinstance(value, str | int | float | bool) else cell
