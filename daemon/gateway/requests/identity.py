"""The id of work that a request sends: its own, one from `Idempotency-Key`, or a new one.

A key becomes an id, so no store of keys is needed: the same id with the same content is the same work, and with other
content a conflict.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from fastapi import Request

from daemon.gateway.answering.problems import Problem, bad_parameter, invalid

HEADER = "Idempotency-Key"
KEY_CHARS = 255
ID_CHARS = 26  # of the hash: 104 bits


def choose_id(request: Request, body: dict[str, Any], kind: str) -> None:
    """Put an id into `body` unless it has one; `kind` begins a new one. Raises Problem 422 for an id and a key."""
    key = idempotency_key(request)
    if key is None:
        body.setdefault("id", f"{kind}-{secrets.token_hex(6)}")
        return
    if "id" in body:
        raise two_names("id")
    body["id"] = id_of_key(key)


def two_names(field: str) -> Problem:
    """The answer for work with an id in its body and an `Idempotency-Key`."""
    return invalid(field, f"`{field}` and the header {HEADER} both name the work; send one of them.")


def idempotency_key(request: Request) -> str | None:
    """The request's `Idempotency-Key`; None without one. Raises Problem 400 for an empty or a long one."""
    key = request.headers.get(HEADER)
    if key is not None and not 1 <= len(key.strip()) <= KEY_CHARS:
        raise bad_parameter(HEADER, f"`{HEADER}` must have 1 to {KEY_CHARS} characters.")
    return None if key is None else key.strip()


def id_of_key(key: str) -> str:
    """The id of the work that an `Idempotency-Key` names."""
    # Headers are bytes, and the server decodes them as Latin-1: this is what the caller sent.
    return f"i-{hashlib.sha256(key.encode('latin-1', 'replace')).hexdigest()[:ID_CHARS]}"
