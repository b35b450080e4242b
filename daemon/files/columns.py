"""Decides what each column of a table is for: a job field, the prompt template, or nothing.

Case, blanks, hyphens and byte order marks make no difference: `Negative Prompt` fills `negative_prompt`. A column
that nothing uses is reported. Without a template it is refused if it is probably a job field with a slip in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pixmill.contract import BatchItem
from pixmill.contract.explain import synonym
from pixmill.contract.fields import whole_number
from pixmill.contract.jobs import Output
from pixmill.text import nearest

WHOLE_NUMBERS = frozenset({"n", "seed", "max_attempts"})
INSIDE = frozenset({"params", "metadata", "output"})
# Fields that no cell can hold, with the way to give each.
_ELSEWHERE = {
    "params": "write one column for each, such as `params.quality`",
    "metadata": "write one column for each, such as `metadata.sku`",
    "output": "write one column for each, such as `output.format`",
    "callback": "a callback is given in JSONL",
    "tenant": "it belongs to the batch (--tenant)",
}
_FIELDS = {field: field for field in BatchItem.model_fields if field not in _ELSEWHERE} | {"input": "inputs"}
_BY_KEY = {field.replace("_", ""): meant for field, meant in _FIELDS.items()}
_NO_LETTERS = re.compile(r"[\s_\-\ufeff\u200b]+")
_PARTS_OF_OUTPUT = {name: f"output.{name}" for name in Output.model_fields} | {
    "quality": "params.quality` or `output.quality"
}


@dataclass(frozen=True, slots=True)
class Columns:
    """`fields` has the job field of each column, or None. `unused` are the columns that nothing uses.

    `problems` has a sentence for each column that would be lost or read wrongly.
    """

    fields: tuple[str | None, ...]
    unused: tuple[str, ...]
    problems: tuple[str, ...]


def match_columns(
    header: Sequence[str],
    template: Collection[str] | None,
    ignored: Collection[str],
    *,
    id_column: str | None = None,
) -> Columns:
    """The use of each column. `template` are the names in the prompt template (None without one).

    `ignored` are columns that are no job fields, whatever their names; the template may still use them. `id_column`
    fills `id`, and no other column does.
    """
    left_out = set(map(_key, ignored)) | ({"id"} if id_column is not None else set())
    fields = [None if _key(name) in left_out else job_field(name) for name in header]
    if id_column in header:
        fields[header.index(id_column)] = "id"
    problems = [_twice(field, header, fields) for field in dict.fromkeys(filter(None, fields))]
    used = template or ()
    problems += [f"two columns are called `{name}`." for name in used if header.count(name) > 1]
    unused = [
        name
        for name, field in zip(header, fields, strict=True)
        if name and field is None and name not in used and _key(name) not in left_out
    ]
    problems += [_refusal(name, is_export=template is not None) for name in unused]
    if id_column is not None and id_column not in header:
        there = ", ".join(filter(None, header))
        problems.append(f"`id_column` names `{id_column}`, which is no column; the columns are {there}.")
    known = {_key(name) for name in header}
    problems += [
        f"--ignore names `{name}`, which is no column." for name in ignored if _key(name) not in known
    ]
    return Columns(tuple(fields), tuple(dict.fromkeys(unused)), tuple(filter(None, problems)))


def fields_of(columns: Columns, cells: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The cells of a row that are job fields, in their types, and a sentence for each that is not of its type.

    An empty cell gives nothing.
    """
    item: dict[str, Any] = {}
    faults: list[str] = []
    for name, cell in zip(columns.fields, cells, strict=False):
        if not cell or name is None:
            continue
        outer, _, inner = name.partition(".")
        if name in WHOLE_NUMBERS:
            if (number := whole_number(cell)) is None:
                faults.append(f'`{name}` must be a whole number, not "{cell[:40]}".')
            else:
                item[name] = number
        elif name == "inputs":
            item.setdefault("inputs", []).extend({"url": url} for url in cell.split())
        elif outer in INSIDE and inner:
            item.setdefault(outer, {})[inner] = cell if outer == "metadata" else _scalar(cell)
        else:
            item[name] = cell
    return item, faults


def job_field(name: str) -> str | None:
    """The job field that a column of this name fills, such as `negative_prompt` or `params.guidance`; or None."""
    outer, dot, inner = name.partition(".")
    if dot and inner and (section := _key(outer)) in INSIDE:
        return f"{section}.{_key(inner) if section == 'output' else inner.strip()}"
    if (lowered := name.lower().lstrip("\ufeff")).startswith("x_"):
        return lowered
    return _BY_KEY.get(_key(name))


def near_column(name: str, header: Sequence[str]) -> str:
    """` Did you mean "Title"?` for a name that the template gives, or an empty text."""
    by_key = {_key(column): column for column in header}
    close = nearest(_key(name), by_key, cutoff=0.75)
    return f" Did you mean {{{by_key[close]}}}?" if close is not None else ""


def hint(name: str) -> str:
    """The job field that a column which nothing uses was perhaps meant to fill, or an empty text."""
    key = _key(name)
    close = nearest(key, _BY_KEY, cutoff=0.75)
    # A slip seldom hits the first letter, and a `Headline` is no `deadline`.
    if close and close[0] == key[0]:
        return _BY_KEY[close]
    return _PARTS_OF_OUTPUT.get(key) or synonym(key) or synonym(name.replace(" ", "_")) or ""


def _key(name: str) -> str:
    return _NO_LETTERS.sub("", name).casefold()


def _twice(field: str, header: Sequence[str], fields: Sequence[str | None]) -> str:
    columns = [name for name, meant in zip(header, fields, strict=True) if meant == field]
    if len(columns) < 2 or field == "inputs":
        return ""
    if len(set(columns)) == 1:
        return f"two columns are called `{columns[0]}`."
    return f"the columns {', '.join(f'`{name}`' for name in columns)} all fill `{field}`: rename all but one."


def _refusal(name: str, *, is_export: bool) -> str:
    """Why a column that nothing uses stops the file; an empty text where it may simply be left out."""
    key = _key(name)
    if key in _ELSEWHERE:
        return f"the column `{name}` cannot be read: {_ELSEWHERE[key]}. {_way_out(name)}"
    # An export of a shop has many columns of its own: the plan lists the guesses about them.
    guess = "" if is_export else hint(name)
    return f"nothing uses the column `{name}`; did you mean `{guess}`? {_way_out(name)}" if guess else ""


def _way_out(name: str) -> str:
    return f'Rename it, or leave it out with --ignore "{name}".'


def _scalar(cell: str) -> str | int | float | bool:
    """Numbers and booleans as JSON writes them; everything else is a text."""
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell
    return value if isinstance(value, str | int | float | bool) else cell
