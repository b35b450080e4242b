"""Parameters of addresses and headers, with what each may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from daemon.gateway.endpoints.items import STATES
from daemon.gateway.requests.identity import KEY_CHARS
from daemon.gateway.requests.parameters import MOST_WAIT_S
from daemon.queue.usage import MOST_DAYS
from pixmill.contract.event_types import BatchState
from pixmill.contract.fields import IDENT_PATTERN, IDENT_TEXT, NAME_PATTERN
from pixmill.contract.schema import SCHEMA_NAMES

Spec = Mapping[str, Any]

_FLAG: Final = {"type": "string", "enum": ["1", "0", "true", "false"]}
_IDENT: Final = {"type": "string", "pattern": IDENT_PATTERN}
_NAME: Final = {"type": "string", "pattern": NAME_PATTERN}
_TEXT: Final = {"type": "string"}


def _number(least: int, most: int, default: int) -> Spec:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


# By name; `operation.name` where a name means something else at one address.
KNOWN: Final[Mapping[str, Spec]] = {
    "ident": {"schema": _IDENT, "description": f"the id: {IDENT_TEXT}", "example": "kettle-1"},
    "batch": {"schema": _IDENT, "description": f"the batch's id: {IDENT_TEXT}", "example": "spring"},
    "k": {
        "schema": {"type": "integer", "minimum": 0, "maximum": 999},
        "description": "which picture, from 0",
        "example": 0,
    },
    "name": {"schema": _NAME, "description": "its name in the configuration", "example": "default"},
    "read_schema.name": {
        "schema": {"type": "string", "enum": list(SCHEMA_NAMES)},
        "description": "which schema",
        "example": "job",
    },
    "read_model.ident": {
        "schema": {"type": "string", "pattern": r"\S"},
        "description": "the name of a route, or of the model of one",
        "example": "default",
    },
    "retry_dead_letter.ident": {
        "schema": {"type": "string", "pattern": r"^\d{1,20}-\d{1,20}$"},
        "description": "the dead letter's id",
        "example": "1896080400000-0",
    },
    "tenant": {"schema": _IDENT, "description": "another tenant's; needs the scope `admin`"},
    "wait": {
        "schema": _number(0, MOST_WAIT_S, 0),
        "description": "answer when it has ended, at the latest after so many seconds",
        "example": 0,
    },
    "limit": {"schema": _number(1, 1000, 100), "description": "how many"},
    "list_batches.limit": {"schema": _number(1, 1000, 50), "description": "how many"},
    "cursor": {"schema": _TEXT, "description": "`next` of the page before"},
    "list_batches.state": {
        "schema": {"type": "string", "enum": list(get_args(BatchState))},
        "description": "only batches in this state",
    },
    "state": {"schema": {"type": "string", "enum": list(STATES)}, "description": "only items in this state"},
    "kind": {
        "schema": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$"},
        "description": "only items whose error is of this kind, such as moderation_input",
    },
    "reason": {"schema": _TEXT, "description": "only dead letters with this reason"},
    "days": {"schema": _number(1, MOST_DAYS, 7), "description": "how many days, with today"},
    "thumb": {"schema": _FLAG, "description": "the small form, as WebP"},
    "inline": {"schema": _FLAG, "description": "the bytes, also where the store gives links"},
    "dry_run": {"schema": _FLAG, "description": "only plan: nothing is recorded"},
    "names": {
        "schema": {"type": "string", "maxLength": 200},
        "description": "the name of each file, made of id and metadata, such as `{sku}/{stem}`",
    },
    "after": {
        "schema": {"type": "string", "pattern": r"^\d{1,20}(-\d{1,20})?$"},
        "description": "the id of the last event that is known",
    },
    "last-event-id": {"schema": _TEXT, "description": "as `after`, which it overrides"},
}


def header(name: str, schema: Spec, text: str) -> dict[str, Any]:
    """A header of a request."""
    return {"name": name, "in": "header", "required": False, "schema": dict(schema), "description": text}


KEY: Final = header(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": KEY_CHARS, "pattern": r"\S"},
    "the same key with the same content is the same work",
)
KEY_OF_RETRY: Final = {**KEY, "description": "the same key within a minute is the same order"}
PREFER: Final = header(
    "Prefer", {"type": "string"}, f"`wait=N`: answer when it has ended, at most N <= {MOST_WAIT_S} seconds"
)
LATER: Final = header("Prefer", {"type": "string"}, "`respond-async`: answer at once, with where to poll")
IF_NONE_MATCH: Final = header(
    "If-None-Match", {"type": "string"}, "the ETag of what is there already: then the answer is 304"
)


def query(name: str, schema: Spec, text: str) -> dict[str, Any]:
    """A parameter of an address that no function declares."""
    return {"name": name, "in": "query", "required": False, "schema": dict(schema), "description": text}


# A CSV has no head, so the address has it.
OF_CSV: Final = (
    query("id", _IDENT, "the id of a CSV's batch"),
    query("tenant", _IDENT, "the tenant of a CSV's batch"),
    query("prompt_template", _TEXT, "makes each prompt of a CSV's columns: `{title}, white background`"),
    query("id_column", _TEXT, "the column of a CSV with the ids"),
    query("skip_empty", {"type": "string", "enum": ["true", "false"]}, "leave out rows without a prompt"),
    query("ignore", {"type": "array", "items": {"type": "string"}}, "columns of a CSV to leave out"),
    query("route", _NAME, "the route of a CSV's items"),
    query("size", _TEXT, "the size of a CSV's items"),
    query("priority", {"type": "string", "enum": ["high", "normal", "low"]}, "of a CSV's items"),
    query("max_in_flight", {"type": "integer", "minimum": 1, "maximum": 100}, "at most so many at a time"),
)
