"""Reads the body of a new batch: JSON, lines of JSON, or a CSV. Nothing is sent before all of it has been checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import orjson
from fastapi import Request

from daemon.files import batch_file
from daemon.files.batch_file import BatchFile, BatchFileError
from daemon.gateway.answering.problems import Problem, bad_parameter, problem_of
from daemon.gateway.callers.access import Caller
from daemon.gateway.gateway import Gateway
from daemon.gateway.requests.bodies import JSON, JSON_BYTES, check_type, parse_object, read_body
from daemon.gateway.requests.identity import choose_id
from daemon.gateway.requests.uploads import AGAIN_S
from pixmill.contract import BATCH_TYPE, Rejection, parse_payload, place_of
from pixmill.contract.batches import ITEMS_MAX, MOST_CONTENT_BYTES

JSON_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
CSV = ("text/csv",)
TYPES = (*JSON, *JSON_LINES, *CSV)
SPOOLED_BYTES = 64 * 1024**2
TURN_S = 10.0  # for another batch of that size to be read, most often
MOST_ITEMS = 10_000  # of lines and of a CSV
# Parameters of the address that a CSV has instead of a head, and the job fields among them.
IN_HEAD = ("id", "tenant", "max_in_flight")
IN_DEFAULTS = ("route", "size", "priority")


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why a batch is refused: its line in the body (from 1), the field and a sentence."""

    line: int | None
    field: str | None
    message: str
    code: str = "invalid"

    def as_dict(self) -> dict[str, Any]:
        """For JSON answers."""
        return {"line": self.line, "field": self.field, "message": self.message}


@dataclass(frozen=True, slots=True)
class Draft:
    """A batch as it was sent. With `faults` it cannot be accepted, and `items` are those without a fault.

    `line_of` finds the line of a field such as `items.3.size`.
    """

    fields: dict[str, Any]  # of the batch, without its items
    items: list[dict[str, Any]]
    line_of: Callable[[str], int | None]
    faults: Sequence[Fault] = ()
    notes: Sequence[str] = field(default_factory=list)

    def fault_of(self, rejection: Rejection) -> list[Fault]:
        """The faults behind a refusal, each with its line."""
        name = (
            None if rejection.field == "data" else rejection.field
        )  # the entry's field for the whole payload
        message = rejection.message.replace("`data`", "The body")
        first = Fault(self._line(name), name, message, rejection.code)
        rest = [batch_file.Problem(1, text) for text in rejection.sentences[1:]]
        return [
            first,
            *(Fault(self._line(each.field), each.field, each.message, rejection.code) for each in rest),
        ]

    def _line(self, name: str | None) -> int | None:
        return None if name is None else self.line_of(name)


@asynccontextmanager
async def draft_of(request: Request, here: Gateway, caller: Caller) -> AsyncIterator[Draft]:
    """The batch in the body of a request; at most one large one at a time, since that takes several times its size.

    Raises Problem for a body that cannot be read, Rejection for a wrong head.
    """
    kind = check_type(request, TYPES)
    if kind in JSON:
        data = await read_body(request, JSON_BYTES, JSON)
        yield await asyncio.to_thread(_from_json, request, caller, data)
        return
    uploads, owner = here.uploads, caller.tenant
    async with uploads.spooled(request, owner, SPOOLED_BYTES, TYPES) as file, _turn(here.batch_turn):
        read = _from_lines if kind in JSON_LINES else _from_csv
        yield await asyncio.to_thread(read, request, caller, file)


@asynccontextmanager
async def _turn(turn: asyncio.Lock) -> AsyncIterator[None]:
    """Hold the lock. Raises Problem 503 when others read for too long: a crowd must not pile up behind them."""
    try:
        async with asyncio.timeout(TURN_S):
            await turn.acquire()
    except TimeoutError:
        sentence = "Other large batches are being read; send it again in a moment."
        raise Problem(503, "busy", sentence, retry_after_s=AGAIN_S) from None
    try:
        yield
    finally:
        turn.release()


def _from_json(request: Request, caller: Caller, data: bytes) -> Draft:
    fields = parse_object(data)
    items = fields.pop("items", None)
    if not isinstance(items, list) or not items:
        raise Problem(422, "invalid", f"`items` must be a list of 1 to {ITEMS_MAX} jobs.", field="items")
    if len(items) > ITEMS_MAX:
        sentence = (
            f"`items` has {len(items)} jobs; JSON takes {ITEMS_MAX}, and lines ({JSON_LINES[0]}) take more."
        )
        raise Problem(422, "invalid", sentence, field="items")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise Problem(422, "invalid", f"`items.{index}` must be an object.", field=f"items.{index}")

    def line_of(name: str) -> int | None:
        place = place_of(data, name)
        return None if place is None else place.line

    return Draft(_head(request, caller, fields), items, line_of)


def _from_lines(request: Request, caller: Caller, file: IO[bytes]) -> Draft:
    first = file.readline(JSON_BYTES)
    try:
        fields = _head(request, caller, parse_object(first.removeprefix(b"\xef\xbb\xbf")))
    except (Problem, Rejection) as error:
        problem = problem_of(error)
        problem.detail = f"Line 1, the head: {problem.detail}"
        problem.more = {"line": 1}
        raise problem from None
    defaults = fields.get("defaults", {})

    def read() -> BatchFile:
        return batch_file.read_json_lines(file, first_line=2, defaults=defaults, most_items=MOST_ITEMS)

    return _from_table(fields, read)


def _from_csv(request: Request, caller: Caller, file: IO[bytes]) -> Draft:
    query = request.query_params
    given: dict[str, Any] = {name: query[name] for name in IN_HEAD if name in query}
    if (most := given.get("max_in_flight")) is not None and most.isascii() and most.isdecimal():
        given["max_in_flight"] = int(most[:9])
    given["defaults"] = {name: query[name] for name in IN_DEFAULTS if name in query}
    fields = _head(request, caller, given)
    skip_empty = query.get("skip_empty", "false")
    if skip_empty not in ("true", "false"):
        raise bad_parameter("skip_empty", "`skip_empty` must be true or false.")

    def read() -> BatchFile:
        return batch_file.read_table(
            file.read(),
            prompt_template=query.get("prompt_template"),
            defaults=fields["defaults"],
            ignored=query.getlist("ignore"),
            skip_empty=skip_empty == "true",
            id_column=query.get("id_column"),
            most_items=MOST_ITEMS,
            most_bytes=MOST_CONTENT_BYTES,
        )

    try:
        return _from_table(fields, read)
    except ValueError as error:
        raise bad_parameter("prompt_template", _in_http(str(error))) from None


def _from_table(fields: dict[str, Any], read: Callable[[], BatchFile]) -> Draft:
    lines: list[int] = []

    def line_of(name: str) -> int | None:
        step, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        return lines[int(number)] if step == "items" and number.isdecimal() else 1

    try:
        table = read()
    except BatchFileError as error:
        faults = [Fault(one.line, one.field, _in_http(one.message), one.code) for one in error.problems]
        lines += error.good.lines
        return Draft(fields, error.good.items, line_of, faults)
    lines += table.lines
    notes = [f"Nothing uses the column {name}." for name in table.unused]
    return Draft(fields, table.items, line_of, notes=notes)


def _head(request: Request, caller: Caller, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of the batch itself with its id and tenant; raises Problem, and Rejection for a wrong field."""
    for name in ("items", "part", "parts"):
        if name in fields:
            sentence = f"`{name}` has no place here: a batch is sent whole, and divided by us."
            raise Problem(422, "unknown_field", sentence, field=name)
    # Nothing else is added: the parts of a batch are cut by their size, as its sender would cut them.
    fields = {**fields, "tenant": caller.tenant_for(fields.get("tenant"))}
    choose_id(request, fields, "batch")
    try:
        parse_payload(orjson.dumps({**fields, "items": [{"id": "head", "prompt": "-"}]}), BATCH_TYPE)
    except Rejection as rejection:
        rejection.field = rejection.field and rejection.field.replace("items.0.", "defaults.", 1)
        rejection.message = rejection.message.replace("items.0.", "defaults.")
        raise
    return fields


def _in_http(message: str) -> str:
    """A sentence about a table, with parameters of the address where the command line has options."""
    for option, parameter in _PARAMETERS:
        message = message.replace(option, parameter)
    return message


_PARAMETERS = (
    ("--skip-empty", "`skip_empty=true`"),
    ("A --prompt-template such as", "A `prompt_template` such as"),
    ("--ignore ", "`ignore` "),
    ("(--tenant)", "(`tenant`)"),
    ("write one object a line, and name the file .jsonl", "write one object a line, as application/x-ndjson"),
)
