"""Reads the rows of a CSV text, as spreadsheets and shops write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

# The first line with which Excel names the separator.
_SEPARATOR = re.compile(r'"?sep=([^"\r\n])"?[,;\t]*', re.IGNORECASE)
_ROW_END = re.compile(r"[\r\n]+")
MOST_DELIMITERS = 10_000  # of a line


class BrokenTableError(Exception):
    """The text ends as a table in the row that begins in `line`; the message says why."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _lines(file: Iterable[str], delimiter: str, first: int) -> Iterator[str]:
    """The lines of the text; raises BrokenTableError for one that would become a row of millions of cells."""
    for number, line in enumerate(file, first):
        if (count := line.count(delimiter)) > MOST_DELIMITERS:
            raise BrokenTableError(
                number, f"the line has {count} times `{delimiter}`, and no row is so long."
            )
        yield line


def rows_of(text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line in which it begins; raises BrokenTableError."""
    first, _, rest = text.partition("\n")
    named = _SEPARATOR.fullmatch(first.strip("\r"))
    # Not splitlines(): a row ends as the module `csv` ends it, and a cell may hold the separators of other alphabets.
    header = next((row for row in _ROW_END.split(text) if row.strip()), "")
    delimiter = named[1] if named else max(",;\t", key=header.count)
    # Descriptions of products may be longer than the module's limit of 131,072 characters.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    lines = _lines(io.StringIO(rest if named else text, newline=""), delimiter, 2 if named else 1)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        # A quoted cell may hold line breaks, so a row begins where the one before it ended.
        line = reader.line_num + (2 if named else 1)
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            never_closed = "end of data" in str(error)
            reason = (
                "is opened and never closed" if never_closed else "inside a quoted cell must be written twice"
            )
            raise BrokenTableError(line, f"a quote {reason}.") from None
        if any(cells):
            yield line, cells
