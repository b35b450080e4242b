"""The codes of all problems, and the groups of them that endpoints have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# The meaning of each code, for people who write programs: the table in docs/http.md says the same.
CODES: Final[Mapping[str, str]] = {
    "bad_parameter": "a parameter of the address or a header cannot be read",
    "malformed": "the body is no JSON object, or is nested too deeply; `line` and `column` say where",
    "unauthorized": "no key, or a wrong one",
    "missing_scope": "the key lacks the scope in `field`",
    "wrong_tenant": "the key belongs to another tenant",
    "cross_site": "a page of another site sent this, or loads it without a key",
    "not_found": "nothing is there, or it belongs to another tenant",
    "picture_gone": "the record is there, but the store has the picture no more",
    "method_not_allowed": "the address does not take that method",
    "slow_body": "the body comes too slowly, or not at all",
    "id_conflict": "this id, or this key of an order, has other content",
    "not_ended": "it is still under way",
    "already_ended": "it has ended",
    "already_succeeded": "it has its picture",
    "gone": "the dead letter was taken off in the meantime",
    "not_kept": "the original of the dead letter was not kept as a whole",
    "ended": "the work behind the dead letter has ended",
    "no_record": "the record behind the dead letter has expired or was deleted",
    "not_failed": "the job of the dead letter is not failed any more",
    "expired": "410: the record has expired; 422: the job's own `expires_at` is over",
    "too_large": "the body is larger than allowed",
    "unsupported_media_type": "the body's type is not taken here",
    "wrong_host": "without keys, only localhost is served",
    "invalid": "the value of `field` is wrong",
    "unknown_field": "no field has this name; the nearest one is in `detail`",
    "secret_in_payload": "the body carries a key; credentials come from the configuration",
    "unknown_route": "no route has this name",
    "unsupported": "the route's provider cannot do this",
    "forbidden_address": "this address may not be called or fetched",
    "backlog_full": "the tenant has too much waiting; `depth` and `cap` say how much",
    "internal": "a fault of ours; the log has the details under the request's id",
    "redis_unavailable": "the queue cannot be reached now",
    "storage_unavailable": "the store of the pictures cannot be reached now",
    "stopping": "this gateway stops; connect again",
    "busy": "other uploads, or other answers with pictures, are under way",
    "no_space": "the disk of this gateway is full",
}

Codes = Mapping[int, tuple[str, ...]]

ANY: Codes = {
    401: ("unauthorized",),
    403: ("missing_scope", "cross_site"),
    421: ("wrong_host",),
    500: ("internal",),
    503: ("redis_unavailable",),
}
TENANT: Codes = {400: ("bad_parameter",), 403: ("wrong_tenant",), 404: ("not_found",)}
WRITES: Codes = {403: ("cross_site",)}
BODY: Codes = {
    400: ("malformed",),
    408: ("slow_body",),
    413: ("too_large",),
    415: ("unsupported_media_type",),
    422: ("invalid", "unknown_field"),
}
FINDS: Codes = {404: ("not_found",), 410: ("expired",)}
STORE: Codes = {503: ("storage_unavailable",)}
UPLOADS: Codes = {503: ("busy", "no_space")}
ACCEPTS: Codes = {
    400: ("bad_parameter",),
    404: ("not_found",),
    409: ("id_conflict",),
    410: ("expired",),
    422: ("secret_in_payload", "unknown_route", "unsupported", "forbidden_address", "expired"),
    429: ("backlog_full",),
}


def joined(*groups: Codes) -> dict[int, tuple[str, ...]]:
    """All codes of some groups, by status."""
    found: dict[int, dict[str, None]] = {}
    for group in groups:
        for status, codes in group.items():
            found.setdefault(status, {}).update(dict.fromkeys(codes))
    return {status: tuple(codes) for status, codes in sorted(found.items())}
