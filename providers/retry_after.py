"""Reads the wait that a provider wishes, in every spelling that providers use.

`Retry-After` in seconds or as a date, `retry-after-ms`, rate-limit reset headers, and last the words of the error
message. A wait of 0, below 0 or in the past is none: the caller's own growing pause counts then. A date is over once
the reply was some seconds on its way, so no provider has to be wrong for that.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

# A longer wait is no throttle but an exhausted allowance.
THROTTLE_LIMIT_S = 15 * 60.0

_EPOCH_MS_FROM = 1e10  # a reset instant above this is in milliseconds: in seconds it would be the year 2286


def parse_retry_after(
    headers: Mapping[str, str], text: str = "", *, now_s: float | None = None
) -> float | None:
    """Seconds to wait (above 0), or None if nothing readable names a wait. Not clamped: see THROTTLE_LIMIT_S.

    The first spelling with a wait above 0 counts.

    `headers` must ignore the case of names. A date is measured against the server's clock, not ours: `now_s` is the
    Unix time to use if the response has no `Date`.
    """
    sent_at_s = date_s(headers.get("date"))
    if sent_at_s is None:
        sent_at_s = time.time() if now_s is None else now_s
    named = (*_from_headers(headers, sent_at_s), _from_text(text))
    return next((wait_s for wait_s in named if wait_s is not None and 0 < wait_s < math.inf), None)


def has_wait(headers: Mapping[str, str]) -> bool:
    """Whether an answer names a wait. Rate-limit headers come with every answer and do not count."""
    return "retry-after" in headers or "retry-after-ms" in headers


def date_s(text: str | None) -> float | None:
    """The Unix time of a date as HTTP writes it; None for anything else."""
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _from_headers(headers: Mapping[str, str], server_now_s: float) -> Iterator[float | None]:
    """The wait of each spelling, the most exact one first."""
    milliseconds = _number(headers.get("retry-after-ms"))
    yield None if milliseconds is None else milliseconds / 1000
    text = headers.get("retry-after", "")
    yield _number(text)
    yield _duration(text)
    date = date_s(text)
    yield None if date is None else date - server_now_s
    yield _from_reset(headers, server_now_s)


def _from_reset(headers: Mapping[str, str], server_now_s: float) -> float | None:
    """Reset headers come with every answer, so they count only if the limit has nothing left."""
    instant = _number(headers.get("x-ratelimit-reset"))
    if instant is not None and _number(headers.get("x-ratelimit-remaining")) == 0:
        if instant > _EPOCH_MS_FROM:
            instant /= 1000
        # Small values are seconds to go, as some gateways spell it.
        return instant - server_now_s if instant > 1e9 else instant
    waits = [
        wait
        for name in ("requests", "tokens")
        if _number(headers.get(f"x-ratelimit-remaining-{name}")) == 0
        and (wait := _duration(headers.get(f"x-ratelimit-reset-{name}", ""))) is not None
    ]
    return max(waits, default=None)


_TEXT = re.compile(
    r"(?:try again|retry|resets?|wait|available)\s*(?:in|after|for)\s*(?:~\s*)?"
    r"(?P<amount>\d[\d.]*)\s*(?P<unit>ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?)\b"
    r"|(?:try again|retry|resets?|wait)\s*(?:in|after|for)\s*(?:~\s*)?(?P<compound>(?:\d+h)?(?:\d+m)?\d[\d.]*s)\b"
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
