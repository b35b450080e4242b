"""Hides secrets in texts of others before they are shown: keys, tokens, signatures, long base64."""

from __future__ import annotations

import re
from collections.abc import Callable

READ_LIMIT = 20_000  # characters of a text that patterns are searched in; far less is shown


def _without_query(found: re.Match[str]) -> str:
    return f"{found[1]}?…" if found[2] else found[0]


# No pattern reads a part of a text again and again: texts of others are made to keep such patterns busy.
_SECRETS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # A URL's userinfo and query (signatures), bearer tokens, vendors' key forms, and long base64.
    (re.compile(r"(://)[^/\s\"'<>@]*+@"), r"\1"),
    (re.compile(r"(https?://[^\s\"'<>?]++)(?:(\?)[^\s\"'<>]*+)?", re.IGNORECASE), _without_query),
    (re.compile(r"\b(Bearer|Basic|Key)\s+[A-Za-z0-9._~+/=:*-]{8,}"), r"\1 ***"),
    (re.compile(r"\b(sk|ms|pk|rk|AKID|AKIA|ASIA|whsec|pxm)[-_]?[A-Za-z0-9_*-]{12,}"), "***"),
    (re.compile(r"(?i)\b(api[_-]?key|secret|token|authorization|signature)([\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]+"),
     r"\1\2***"),
    (re.compile(r"[A-Za-z0-9+/]{200,}={0,2}"), "(base64 removed)"),
)  # fmt: skip


def redact(text: str, *, limit: int = READ_LIMIT) -> str:
    """`text` without keys, tokens, URL queries and long base64; at most `limit` characters."""
    text = text[:limit]  # a bound for the patterns; messages are shortened to far less afterwards
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
