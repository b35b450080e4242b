"""Reads a CSV or JSONL file into the items of a batch, or reports every problem in it with its line.

CSV has a header row. Columns named like job fields fill them (`params.X`, `metadata.X`, `output.X` reach
inside; `inputs` holds URLs with spaces between); all other columns are there for the prompt template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.files.columns import Columns, fields_of, match_columns
from daemon.files.csv_table import BrokenTableError, rows_of
from daemon.files.item_check import ItemCheck
from daemon.files.row_prompts import NO_PROMPT, RowPrompts
from pixmill.contract import BatchItem, Rejection, load_object
from pixmill.contract.batches import TakenIds
from pixmill.contract.jobs import MOST_PICTURES

MOST_BYTES = 256 * 1024 * 1024
MOST_COLUMNS = 1000  # each costs time in every row, also where the row is short
JSON_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in one line (lines count from 1, as in editors)."""

    line: int
    message: str
    code: str = "invalid"  # of the contract's refusals

    @property
    def field(self) -> str | None:
        """The job field that the message begins with, if it names one."""
        named = _FIELD.match(self.message)
        return named[1] if named else None


@dataclass(frozen=True, slots=True)
class BatchFile:
    """The items of a file with their lines, and what it has beside them: columns that nothing uses, skipped rows."""

    items: list[dict[str, Any]]
    lines: list[int] = field(default_factory=list, compare=False)
    unused: tuple[str, ...] = ()
    skipped: int = 0


class BatchFileError(Exception):
    """The file cannot be sent; `problems` lists every problem in the order of the lines, `good` has the other items."""

    def __init__(self, name: str, problems: list[Problem], good: BatchFile) -> None:
        self.good = good
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(f"{name}, line {one.line}: {one.message}" for one in self.problems))


def read_batch_file(
    path: Path,
    *,
    prompt_template: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    ignored: Sequence[str] = (),
    skip_empty: bool = False,
) -> BatchFile:
    """The items of a file, each with an id (`row-0001` where none is given), valid under the contract.

    `.jsonl` and `.ndjson` hold one job object a line; anything else is read as CSV in UTF-8, with commas, semicolons
    or tabs, or what a first line such as `sep=;` names. `defaults` are the job fields that the batch gives to all.
    `ignored` are columns that are no job fields. `skip_empty` leaves out rows without a prompt. Raises BatchFileError
    with every problem, OSError for a file that cannot be read, ValueError for a wrong template.
    """
    reader = _Reader(prompt_template, defaults or {}, ignored, skip_empty=skip_empty)
    reader.read(path.read_bytes(), path.suffix.lower())
    return reader.result(path.name)


def read_table(
    data: bytes,
    *,
    prompt_template: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    ignored: Sequence[str] = (),
    skip_empty: bool = False,
    id_column: str | None = None,
    most_items: int | None = None,
    most_bytes: int | None = None,
) -> BatchFile:
    """As `read_batch_file`, for the bytes of a CSV. `id_column` is the column with the ids, whatever its name.

    `most_items` and `most_bytes` are of all items: a template may make much of a small file.
    """
    reader = _Reader(
        prompt_template,
        defaults or {},
        ignored,
        skip_empty=skip_empty,
        id_column=id_column,
        most_items=most_items,
        most_bytes=most_bytes,
    )
    reader.read(data, ".csv")
    return reader.result("the body")


def read_json_lines(
    lines: Iterable[bytes], *, first_line: int, defaults: Mapping[str, Any], most_items: int
) -> BatchFile:
    """As `read_batch_file`, for lines of JSON of which the first one has the number `first_line`."""
    reader = _Reader(None, defaults, (), skip_empty=False, most_items=most_items)
    reader.read_json(lines, first_line)
    return reader.result("the body")


Row = tuple[
    int, Mapping[str, str], dict[str, Any], list[str]
]  # the line, the values for a template, the job's own fields, the problems of its cells


class _Reader:
    """One pass over a file: the items so far, and the problems."""

    def __init__(
        self,
        template: str | None,
        defaults: Mapping[str, Any],
        ignored: Sequence[str],
        *,
        skip_empty: bool,
        id_column: str | None = None,
        most_items: int | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self.items: list[dict[str, Any]] = []
        self.lines: list[int] = []
        self.problems: list[Problem] = []
        self.unused: tuple[str, ...] = ()
        self.skipped = 0
        self._prompts = RowPrompts(template, defaults)
        self._defaults = defaults
        self._ignored = ignored
        self._skip_empty = skip_empty
        self._id_column = id_column
        self._check = ItemCheck(defaults)
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._ids = TakenIds()

    def result(self, name: str) -> BatchFile:
        """The items that were read; raises BatchFileError."""
        good = BatchFile(self.items, self.lines, self.unused, self.skipped)
        if self.problems:
            raise BatchFileError(name, self.problems, good)
        return good

    def read(self, data: bytes, suffix: str) -> None:
        if len(data) > MOST_BYTES:
            most = MOST_BYTES // 1024**2
            return self._complain(1, f"the file is larger than {most} MiB; send it as several batches.")
        try:
            # Two byte order marks come from a tool that writes one before a text that had one.
            text = data.decode().lstrip("\ufeff")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            return self._complain(
                line, "the text is not UTF-8; save the file as UTF-8 (in Excel: `CSV UTF-8`)."
            )
        if suffix == ".json" or (suffix not in JSON_SUFFIXES and _JSON.match(text)):
            return self._complain(
                1, "this is JSON, not a table: write one object a line, and name the file .jsonl."
            )
        if suffix in JSON_SUFFIXES:
            # Not splitlines(): JSON may hold the separators of other alphabets inside its texts.
            return self.read_json(text.encode().split(b"\n"), 1)
        return self._add_all(self._csv_rows(text), 1)

    def read_json(self, lines: Iterable[bytes], first_line: int) -> None:
        self._add_all(self._json_rows(lines, first_line), first_line)

    def _add_all(self, rows: Iterable[Row], first_line: int) -> None:
        try:
            for number, row in enumerate(rows, 1):
                if number - 1 == self._most_items:
                    self._complain(
                        row[0], f"a batch has at most {number - 1} items; send it as several batches."
                    )
                    break
                self._add(number, *row)
                if self._most_bytes is not None and self._prompts.made_bytes > self._most_bytes:
                    most = self._most_bytes // 1024**2
                    sentence = f"the prompts up to this line have more than {most} MiB; send several batches."
                    self._complain(row[0], sentence, "too_large")
                    break
        except BrokenTableError as error:
            self._complain(error.line, str(error))
        if not self.items and not self.problems:
            self._complain(first_line, "there is no job in this file.")

    def _complain(self, line: int, message: str, code: str = "invalid") -> None:
        self.problems.append(Problem(line, message, code))

    def _add(
        self, number: int, line: int, values: Mapping[str, str], item: dict[str, Any], faults: list[str]
    ) -> None:
        if lacking := self._prompts.lacking(values, item):
            if self._skip_empty:
                self.skipped += 1
                return
            # A prompt with an empty place would be paid for like any other.
            faults.append(f"{lacking}; --skip-empty leaves such rows out.")
            item["prompt"] = NO_PROMPT
        elif fault := self._prompts.put(values, item):
            faults.append(fault)
        item = {"id": item.pop("id", None) or f"row-{number:04d}", **item}
        refusals, code = self._check.refusals(item)
        faults += refusals
        if isinstance(ident := item["id"], str):
            n = item.get("n", self._defaults.get("n", 1))
            if clash := self._ids.add(ident, n if isinstance(n, int) and n <= MOST_PICTURES else 1, line):
                taken, first = clash
                faults.append(
                    f'the id "{taken}" is already taken in line {first}; ids are unique in a batch.'
                )
        for fault in faults:
            self._complain(line, fault, code)
        if not faults:
            self.items.append(item)
            self.lines.append(line)

    def _json_rows(self, lines: Iterable[bytes], first_line: int) -> Iterator[Row]:
        for line, row in enumerate(lines, first_line):
            if not row.strip():
                continue
            try:
                item = load_object(row)
            except Rejection as rejection:
                self._complain(line, rejection.message.replace("`data`", "the line"), rejection.code)
                continue
            values = {
                name: str(value) for name, value in item.items() if isinstance(value, str | int | float)
            }
            if unknown := self._prompts.unknown(list(values)):
                self._complain(line, unknown)
                continue
            # A field that only the template uses is not a job field, so it is not sent.
            known = BatchItem.model_fields
            for name in [*self._ignored, *(name for name in self._prompts.names if name not in known)]:
                item.pop(name, None)
            yield line, values, item, []

    def _csv_rows(self, text: str) -> Iterator[Row]:
        rows = rows_of(text)
        line, header = next(rows, (1, []))
        if len(header) > MOST_COLUMNS:
            return self._complain(line, f"has {len(header)} columns, and {MOST_COLUMNS} are the most.")
        names = self._prompts.names if self._prompts.is_template else None
        columns = match_columns(header, names, self._ignored, id_column=self._id_column)
        if not header or not self._header_is_right(header, columns, line):
            return
        self.unused = columns.unused
        for line, cells in rows:
            if any(cells[len(header) :]):
                self._complain(
                    line,
                    f"has {len(cells)} cells, and the header has {len(header)}; put quotes around commas.",
                )
            else:
                values = dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))
                yield line, values, *fields_of(columns, cells)

    def _header_is_right(self, header: list[str], columns: Columns, line: int) -> bool:
        for problem in columns.problems:
            self._complain(line, problem)
        has_prompt = self._prompts.is_template or "prompt" in columns.fields or self._defaults.get("prompt")
        if not has_prompt:
            there = ", ".join(filter(None, header))
            self._complain(
                line,
                f"there is no column `prompt`; the columns are {there}. "
                'A --prompt-template such as "{title}, white background" makes prompts from other columns.',
            )
        if unknown := self._prompts.unknown(header):
            self._complain(line, unknown)
        return bool(has_prompt) and not unknown and not columns.problems


_FIELD = re.compile(r"`([\w.-]+)`")
_JSON = re.compile(r'\s*(?:\[\s*[\[{"]|\{\s*")')
