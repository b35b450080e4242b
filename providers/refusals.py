"""What refusals of HTTP APIs have in common: the error object of a body, and what a status means by itself."""

from __future__ import annotations

from typing import Any

import orjson

from providers.errors import ErrorKind

_STATUSES: dict[int, ErrorKind] = {
    400: ErrorKind.INVALID_REQUEST,
    401: ErrorKind.AUTH,
    402: ErrorKind.BILLING_EXHAUSTED,
    403: ErrorKind.PERMISSION,
    404: ErrorKind.UNSUPPORTED,
    408: ErrorKind.AMBIGUOUS_SUBMIT,
    409: ErrorKind.OVERLOADED,
    410: ErrorKind.UNSUPPORTED,
    413: ErrorKind.INVALID_REQUEST,
    415: ErrorKind.INVALID_REQUEST,
    422: ErrorKind.INVALID_REQUEST,
    425: ErrorKind.RATE_LIMITED,
    429: ErrorKind.RATE_LIMITED,
    451: ErrorKind.MODERATION_INPUT,
    500: ErrorKind.PROVIDER_FAULT,
    # An edge that lost its backend cannot say whether the backend made and billed a picture.
    502: ErrorKind.AMBIGUOUS_SUBMIT,
    503: ErrorKind.OVERLOADED,
    504: ErrorKind.AMBIGUOUS_SUBMIT,
    524: ErrorKind.AMBIGUOUS_SUBMIT,
    529: ErrorKind.OVERLOADED,
}


def kind_of_status(status: int) -> ErrorKind:
    """What a refused submit means, as far as its HTTP status tells."""
    if status in _STATUSES:
        return _STATUSES[status]
    if 400 <= status < 500:
        return ErrorKind.INVALID_REQUEST
    return ErrorKind.PROVIDER_FAULT if status >= 500 else ErrorKind.UNKNOWN


def json_object(body: bytes) -> dict[str, Any] | None:
    """The body as a JSON object; None if it is anything else."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def error_object(body: bytes) -> dict[str, Any]:
    """The error that a body holds, as a dict; empty if it holds none or is no JSON."""
    document = json_object(body) or {}
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
