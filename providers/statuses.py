"""What an HTTP status means where the body says nothing better."""

from __future__ import annotations

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
    """The kind of failure that a status of the call that asks for a picture stands for."""
    if status in _STATUSES:
        return _STATUSES[status]
    if 400 <= status < 500:
        return ErrorKind.INVALID_REQUEST
    return ErrorKind.PROVIDER_FAULT if status >= 500 else ErrorKind.UNKNOWN
