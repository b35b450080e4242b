"""Reads one entry of the jobs stream: bytes in, a model of the contract out, or a Rejection.

Nothing else ever leaves `parse_entry`, whatever a producer sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson
from pydantic import ValidationError

from daemon.contract.explain import refused
from daemon.contract.fields import IDENT_PATTERN
from daemon.contract.jobs import Batch, Cancel, Job, RetryRequest
from daemon.contract.rejection import Rejection, clipped, shown, shown_path
from daemon.contract.secrets import credential_path, has_credential, has_password_in_url

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
    work also where the rest is refused. `drops` are credential fields that are left out instead of refused.
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
        if _is_secret(clipped(name.decode("utf-8", "replace"))):
            raise _secret_found(clipped(name.decode("utf-8", "replace")))
    if (size := sum(map(len, fields)) + sum(map(len, fields.values())) - len(data)) > MAX_ATTRIBUTE_BYTES:
        limit = MAX_ATTRIBUTE_BYTES // 1024
        message = f"The fields beside `data` have {-(-size // 1024)} KiB; at most {limit} KiB are allowed."
        raise Rejection("too_large", message)
    kind = fields.get(b"type", b"pixmill.job.v1").decode("utf-8", "replace")
    return parse_payload(data, kind, others)


def parse_payload(data: bytes, kind: str = JOB_TYPE, others: PayloadTypes = NO_TYPES) -> Payload:
    """The model that `data` (JSON of at most 256 KiB) describes under the type `kind`; raises Rejection."""
    known_types = {**_TYPES, **others}
    if (read := known_types.get(kind)) is None:
        known = ", ".join(known_types)
        raise Rejection(
            "unknown_type", f"The type {shown(kind)} is not known here; known are {known}.", field="type"
        )
    payload = load_object(data)
    tenant, ident = _who(payload, read)
    try:
        if _inspect(payload, read.drops):
            raise _unread(data, "malformed", f"`data` is nested deeper than {MAX_DEPTH} levels.")
        if not read.drops and has_credential(data) and (path := credential_path(payload)) is not None:
            raise _secret_value(shown_path(path))
        return read.parse(payload)
    except Rejection as rejection:
        rejection.tenant, rejection.ident = tenant, ident
        raise


def load_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; raises Rejection when it is too large, not JSON or not an object."""
    if len(data) > MAX_DATA_BYTES:
        size = -(-len(data) // 1024)
        hint = "give pictures by URL, and send a large batch in `parts`"
        raise _unread(data, "too_large", f"`data` has {size} KiB; at most 256 KiB are allowed: {hint}.")
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _unread(
            data, "malformed", f"`data` is not JSON in UTF-8 ({error.msg.split(':')[0]}, {where})."
        ) from None
    if not isinstance(payload, dict):
        raise Rejection("malformed", f"`data` must be a JSON object, not {shown(payload)}.", field="data")
    return payload


def contains_secret(data: bytes) -> bool:
    """Whether unread bytes look as if they carry a credential; such data must not be copied anywhere."""
    # Without zero bytes, UTF-16 reads like plain text.
    data = data.replace(b"\0", b"")
    return bool(_SECRET_KEY_IN_TEXT.search(data)) or has_credential(data) or has_password_in_url(data)


def _model(model: type[Payload]) -> Callable[[dict[str, Any]], Payload]:
    def parse(payload: dict[str, Any]) -> Payload:
        try:
            return model.model_validate(payload)
        except ValidationError as error:
            raise refused(error, model) from None

    return parse


def _inspect(payload: dict[str, Any], allowed: frozenset[str]) -> bool:
    """Refuse a credential under any key; returns whether there is more below what is read."""
    too_deep = False
    stack: list[tuple[Any, int, tuple[str | int, ...]]] = [(payload, 1, ())]
    while stack:
        node, depth, path = stack.pop()
        if depth > MAX_DEPTH:
            too_deep = True
            continue
        if type(node) is list:
            inner = ((item, depth + 1, (*path, index)) for index, item in enumerate(node))
            stack.extend(step for step in inner if type(step[0]) in _CONTAINERS)
            continue
        for key, value in node.items():
            if key not in _HARMLESS and _is_secret(key) and key not in allowed:
                raise _secret_found(shown_path((*path, key)))
            if type(value) in _CONTAINERS:
                stack.append((value, depth + 1, (*path, key)))
    return too_deep


_CONTAINERS = frozenset({dict, list})


def _is_secret(key: str) -> bool:
    return len(key) < 40 and _SEPARATORS.sub("", key).casefold() in _SECRET_KEYS


def _secret_found(path: str) -> Rejection:
    sentence = f"`{path}` is a place for a credential, and jobs carry none: configure it, and name a `route`."
    return Rejection("secret_in_payload", sentence, field=path)


def _secret_value(path: str) -> Rejection:
    sentence = (
        f"`{path}` has the form of a credential, and jobs carry none: configure it, and name a `route`."
    )
    return Rejection("secret_in_payload", sentence, field=path)


def _unread(data: bytes, code: Any, message: str) -> Rejection:
    if contains_secret(data):
        code, message = "secret_in_payload", f"{message} It seems to carry a credential, so it is not kept."
    return Rejection(code, message, field="data")


def _who(payload: dict[str, Any], read: PayloadType) -> tuple[str | None, str | None]:
    """The tenant and id that a refused payload claims, as far as they have the form of such."""
    idents = (_as_ident(payload.get(name)) for name in read.idents)
    return _as_ident(payload.get(read.tenant)), next((ident for ident in idents if ident), None)


def _as_ident(value: object) -> str | None:
    return value if isinstance(value, str) and _IDENT.fullmatch(value) else None


_IDENT = re.compile(IDENT_PATTERN.strip("^$"))
_SEPARATORS = re.compile(r"^[xX][-_]|[-_\s]")
_SECRET_KEYS = frozenset({"apikey", "secretid", "secretkey", "authorization", "token"})
# What is not JSON may be a Python or JavaScript literal, JSON inside of a text, YAML, a form or an environment. A bare
# `token` is also a word of prompts and a parameter of signed URLs: only one with a long value counts.
_SECRET_KEY_IN_TEXT = re.compile(
    rb"""(?ix)
      ["'] (?:x[-_])? (?:api[-_\s]?key | secret[-_\s]?(?:id|key) | authorization | token) \\*["'] \s* [:=]
    | (?<![a-z0-9]) (?:api[-_]?key | secret[-_]?(?:id|key) | authorization) \s* [:=]
    | (?<![\w?&-]) token \s* [:=] \s* \\*["']? [\w.+/=-]{16}
    """
)
_TYPES: PayloadTypes = {
    JOB_TYPE: PayloadType(_model(Job)),
    BATCH_TYPE: PayloadType(_model(Batch)),
    CANCEL_TYPE: PayloadType(_model(Cancel), idents=("job", "batch")),
    RETRY_TYPE: PayloadType(_model(RetryRequest), idents=("job", "batch")),
}
# Keys that need no closer look; most keys of most payloads are these.
_HARMLESS: frozenset[str] = Job.known_fields | Batch.known_fields
