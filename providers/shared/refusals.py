"""What the bodies of refusals have in common."""

from __future__ import annotations

import re
from typing import Any

import orjson

# Statuses with which an API speaks of one task; the others speak of keys, of rates, or of a server in trouble.
_OF_ONE_TASK = frozenset({200, 400, 404, 410, 422})
_GONE = re.compile(
    r"task.{0,80}\b(?:not (?:found|exists?)|no longer exists?|expired)|no such task|任务.{0,40}不存在",
    re.IGNORECASE,
)


def json_object(body: bytes) -> dict[str, Any] | None:
    """The body as a JSON object; None if it is anything else."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def error_object(body: bytes) -> dict[str, Any]:
    """The error that a body holds, as a dict; empty if it holds none or is no JSON."""
    return error_in(json_object(body) or {})


def error_in(document: dict[str, Any]) -> dict[str, Any]:
    """The error that a document holds, whatever the status of its answer; empty if it holds none."""
    error = document.get("error") or document.get("errors")
    if isinstance(error, str):
        return {"message": error}
    if isinstance(error, dict):
        return error
    if "data" not in document and ("message" in document or "detail" in document):
        return {**document, "message": document.get("message") or document.get("detail")}
    return {}


def word(value: object) -> str:
    """A field of an error as text; empty for what is no word."""
    return "" if value is None or isinstance(value, dict | list) else str(value)


def says_task_is_gone(status: int, message: str) -> bool:
    """Whether the refusal of a poll says in words that there is no such task.

    A 404 alone does not: gateways and edges in trouble have one too, and know nothing of tasks.
    """
    return status in _OF_ONE_TASK and _GONE.search(message) is not None
