"""Reads one entry of the jobs stream: bytes in, a model of the contract or a Rejection out.

`parse_entry` raises nothing else, for any bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson
from pydantic import ValidationError

from pixmill.contract.batches import Batch, Cancel, RetryRequest
from pixmill.contract.explain import refused
from pixmill.contract.fields import IDENT_PATTERN
from pixmill.contract.jobs import Job
from pixmill.contract.rejection import Rejection, RejectionCode, clipped, shown, shown_path
from pixmill.contract.secrets import (
    contains_secret,
    credential_path,
    has_credential,
    is_secret_name,
    secret_name_path,
)

MAX_DATA_BYTES = 256 * 1024
MAX_ATTRIBUTE_BYTES = 16 * 1024  # the names and values of all fields but `data`
MAX_DEPTH = 32
JOB_TYPE = "pixmill.job.v1"
BATCH_TYPE = "pixmill.batch.v1"
CANCEL_TYPE = "pixmill.cancel.v1"
RETRY_TYPE = "pixmill.retry.v1"

Payload = Job | Batch | Cancel | RetryRequest


@dataclass(frozen=True, slots=True)
class PayloadType:
    """How one `type` of entry is read.

    `parse` makes the model of a JSON object or raises Rejection. `tenant` and `idents` are the fields that name the
    work even where the rest is refused. `drops` are credential fields that are left out instead of refused.
    """

    parse: Callable[[dict[str, Any]], Payload]
    tenant: str = "tenant"
    idents: tuple[str, ...] = ("id",)
    drops: frozenset[str] = frozenset()


PayloadTypes = Mapping[str, PayloadType]
NO_TYPES: PayloadTypes = MappingProxyType({})


def parse_entry(fields: Mapping[bytes, bytes], others: PayloadTypes = NO_TYPES) -> Payload:
    """The job, batch, cancel or retry of one stream entry; raises Rejection, and nothing else.

    `others` are further types beside those of the contract.
    """
    data = fields.get(b"data")
    if data is None:
        raise Rejection("malformed", "The entry has no field `data`; put the job's JSON there.", field="data")
    for name in fields:
        if is_secret_name(text := name.decode("utf-8", "replace")):
            raise _secret(clipped(text), _PLACE)
    if (size := sum(map(len, fields)) + sum(map(len, fields.values())) - len(data)) > MAX_ATTRIBUTE_BYTES:
        limit = MAX_ATTRIBUTE_BYTES // 1024
        message = f"The fields beside `data` have {-(-size // 1024)} KiB; at most {limit} KiB are allowed."
        raise Rejection("too_large", message)
    kind = fields.get(b"type", JOB_TYPE.encode()).decode("utf-8", "replace")
    return parse_payload(data, kind, others)


def parse_payload(
    data: bytes, kind: str = JOB_TYPE, others: PayloadTypes = NO_TYPES, *, most_bytes: int = MAX_DATA_BYTES
) -> Payload:
    """The model that `data` (JSON of at most `most_bytes`) describes under the type `kind`; raises Rejection."""
    known_types = {**_TYPES, **others}
    if (read := known_types.get(kind)) is None:
        known = ", ".join(known_types)
        raise Rejection(
            "unknown_type", f"The type {shown(kind)} is not known here; known are {known}.", field="type"
        )
    payload = load_object(data, most_bytes)
    try:
        path, too_deep = secret_name_path(payload, read.drops, MAX_DEPTH)
        if path is not None:
            raise _secret(shown_path(path), _PLACE)
        if too_deep:
            raise _unread(data, "malformed", f"`data` is nested deeper than {MAX_DEPTH} levels.")
        if not read.drops and has_credential(data) and (path := credential_path(payload)) is not None:
            raise _secret(shown_path(path), "has the form of a credential")
        return read.parse(payload)
    except Rejection as rejection:
        rejection.tenant = _as_ident(payload.get(read.tenant))
        idents = (_as_ident(payload.get(name)) for name in read.idents)
        rejection.ident = next(filter(None, idents), None)
        raise


def load_object(data: bytes, most_bytes: int = MAX_DATA_BYTES) -> dict[str, Any]:
    """The JSON object in `data`; raises Rejection when it is too large, not JSON or not an object."""
    if len(data) > most_bytes:
        size = -(-len(data) // 1024)
        hint = "give pictures by URL, and send a large batch in `parts`"
        allowed = f"at most {most_bytes // 1024} KiB are allowed"
        raise _unread(data, "too_large", f"`data` has {size} KiB; {allowed}: {hint}.")
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        where = f"{error.msg.split(':')[0]}, line {error.lineno}, column {error.colno}"
        raise _unread(data, "malformed", f"`data` is not JSON in UTF-8 ({where}).") from None
    if not isinstance(payload, dict):
        raise Rejection("malformed", f"`data` must be a JSON object, not {shown(payload)}.", field="data")
    return payload


_PLACE = "is a place for a credential"


def _secret(path: str, what: str) -> Rejection:
    sentence = f"`{path}` {what}, and jobs carry none: configure it, and name a `route`."
    return Rejection("secret_in_payload", sentence, field=path)


def _unread(data: bytes, code: RejectionCode, message: str) -> Rejection:
    # The text may be huge. Whoever keeps a part of it looks through that part again.
    if contains_secret(data[:MAX_DATA_BYTES]):
        code, message = "secret_in_payload", f"{message} It seems to carry a credential, so it is not kept."
    return Rejection(code, message, field="data")


def _as_ident(value: object) -> str | None:
    """A tenant or id that a refused payload names, if it has the form of one."""
    return value if isinstance(value, str) and _IDENT.fullmatch(value) else None


def _parser(model: type[Payload]) -> Callable[[dict[str, Any]], Payload]:
    def parse(payload: dict[str, Any]) -> Payload:
        try:
            return model.model_validate(payload)
        except ValidationError as error:
            raise refused(error, model) from None

    return parse


_IDENT = re.compile(IDENT_PATTERN.strip("^$"))
_TYPES: PayloadTypes = {
    JOB_TYPE: PayloadType(_parser(Job)),
    BATCH_TYPE: PayloadType(_parser(Batch)),
    CANCEL_TYPE: PayloadType(_parser(Cancel), idents=("job", "batch")),
    RETRY_TYPE: PayloadType(_parser(RetryRequest), idents=("job", "batch")),
}
