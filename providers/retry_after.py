"""How long a provider asks us to wait, in every spelling that providers use.

`Retry-After` in seconds or as a date, `retry-after-ms`, rate-limit reset headers, and, as a last resort, the
words of the error message.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

# A provider that asks for more than this has no throttle but an exhausted allowance.
THROTTLE_LIMIT_S = 15 * 60.0

_EPOCH_MS_FROM = 1e10  # a reset instant above this is in milliseconds: in seconds it would be the year 2286


def parse_retry_after(
    headers: Mapping[str, str], text: str = "", *, now_s: float | None = None
) -> float | None:
    """Seconds to wait (>= 0), or None when nothing readable was said. Not clamped: see THROTTLE_LIMIT_S.

    `headers` must look names up without regard to case. `now_s` is the Unix time used where the response has
    no `Date` of its own; a date is measured against the server's clock, not ours.
    """
    wait = _from_headers(headers, _server_time(headers, now_s))
    return wait if wait is not None else _from_text(text)


def asks_to_wait(headers: Mapping[str, str]) -> bool:
    """Whether an answer names a wait of its own; rate-limit headers come with every answer and do not count."""
    return "retry-after" in headers or "retry-after-ms" in headers


def _from_headers(headers: Mapping[str, str], server_now_s: float) -> float | None:
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    asked = headers.get("retry-after")
    if asked is not None:
        seconds = _number(asked)
        if seconds is None:
            seconds = _duration(asked)
        if seconds is None:
            seconds = _until_date(asked, server_now_s)
        if seconds is not None:
            return max(0.0, seconds)
    return _from_reset(headers, server_now_s)


def _from_reset(headers: Mapping[str, str], server_now_s: float) -> float | None:
    """Reset headers come with every answer, so they only count for a limit that has nothing left."""
    instant = _number(headers.get("x-ratelimit-reset"))
    if instant is not None and _number(headers.get("x-ratelimit-remaining")) == 0:
        if instant > _EPOCH_MS_FROM:
            instant /= 1000
        # Small values are seconds to go, as some gateways spell it.
        return max(0.0, instant - server_now_s if instant > 1e9 else instant)
    waits = [
        wait
        for what in ("requests", "tokens")
        if _number(headers.get(f"x-ratelimit-remaining-{what}")) == 0
        and (wait := _duration(headers.get(f"x-ratelimit-reset-{what}", ""))) is not None
    ]
    return max(waits, default=None)


_TEXT = re.compile(
    r"(?:try again|retry|resets?|wait|available)\s*(?:in|after|for)\s*~?\s*"
    r"(?P<amount>\d[\d.]*)\s*(?P<unit>ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?)\b"
    r"|(?:try again|retry|resets?|wait)\s*(?:in|after|for)\s*~?\s*(?P<compound>(?:\d+h)?(?:\d+m)?\d[\d.]*s)\b"
    r"|\"retryDelay\"\s*:\s*\"(?P<delay>[\d.]+)s\"",
    re.IGNORECASE,
)


def _from_text(text: str) -> float | None:
    found = _TEXT.search(text[:20_000])
    if found is None:
        return None
    if found["delay"]:
        return _number(found["delay"])
    if found["compound"]:
        return _duration(found["compound"])
    amount = _number(found["amount"].rstrip("."))
    return None if amount is None else amount * _unit_s(found["unit"].lower())


def _unit_s(unit: str) -> float:
    if unit.startswith(("ms", "milli")):
        return 0.001
    return {"s": 1.0, "m": 60.0, "h": 3600.0}[unit[0]]


_DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def _duration(text: str) -> float | None:
    """`1s`, `6m0s`, `1h2m3.5s`, `120ms`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _until_date(text: str, server_now_s: float) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() - server_now_s
    except (ValueError, TypeError, OverflowError):
        return None


def _server_time(headers: Mapping[str, str], now_s: float | None) -> float:
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return time.time() if now_s is None else now_s
