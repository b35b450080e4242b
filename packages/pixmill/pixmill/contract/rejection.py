"""The refusal of an entry of the jobs stream: one exception, for the producer who reads it.

Messages name the field, the given value and what is allowed. They never carry a secret or more than 80 characters
of a value, because they travel into events, dead letters and logs.
"""

from __future__ import annotations

import re
from typing import Literal

RejectionCode = Literal[
    "malformed",
    "invalid",
    "secret_in_payload",
    "too_large",
    "id_conflict",
    "unknown_type",
    "unknown_route",
    "unsupported",
    "not_found",
    "expired",
    "backlog_full",
]

SHOWN_CHARS = 80


class Rejection(Exception):  # noqa: N818 - a refusal is an outcome with an event of its own, not a fault
    """An entry that will not become work.

    `code` is stable and for programs, `message` is a sentence for people, `field` a dotted path such as
    `items.3.size` (None when the whole entry is meant). `tenant` and `ident` (the id of
    the job or batch) are for the event that reports the refusal; None if they could not be read.
    `sentences` has one for each problem, where several are known.
    """

    def __init__(
        self,
        code: RejectionCode,
        message: str,
        *,
        field: str | None = None,
        tenant: str | None = None,
        ident: str | None = None,
        sentences: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code: RejectionCode = code
        self.field = field
        self.message = message
        self.tenant = tenant
        self.ident = ident
        self.sentences = sentences or (message,)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def shown(value: object) -> str:
    """A value as a message may quote it: short, without anything like a credential or a signed URL."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return clipped(str(value))
    if isinstance(value, str):
        return f'"{clipped(value)}"' if not _SENSITIVE.search(value) else f"a text of {len(value)} characters"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    return f"a {type(value).__name__}"


def shown_path(parts: tuple[str | int, ...]) -> str:
    """A dotted path for a message. Its parts come from the payload, so they may be secrets, too."""
    return ".".join("…" if _SENSITIVE.search(part := str(raw)) else clipped(part) for raw in parts)


def clipped(text: str) -> str:
    """At most 80 printable characters of a text."""
    text = "".join(char if char.isprintable() else " " for char in text[: SHOWN_CHARS + 1])
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


# URLs carry signatures and passwords; the rest are the shapes of the keys that these providers hand out. No
# word worth quoting is a run of 24 or more letters and digits.
_SENSITIVE = re.compile(
    r"://|(?i:bearer\s|basic\s|whsec_)|\b(?:sk|ms|rk|pk)-\w|\bAKID\w|[A-Za-z0-9+/=_-]{24,}|password|secret"
)
