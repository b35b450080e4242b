"""Reads a provider's rate headers into one neutral form, which may tighten our own books.

Headers are hints: they are late, rounded, and come in several dialects. So they never loosen a limit, and an
unreadable header is left out without an error. Retry-After is not read here: it is an order, not a hint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

DAY_S: Final = 86_400.0

_LONGEST: Final = 4096
_MOST_READINGS: Final = 16
_LARGEST: Final = 10**15
_INSTANT_FROM_S: Final = 1e9  # a wait of so many seconds would be 31 years
_INSTANT_MS_FROM: Final = 1e10  # an instant of so many seconds would be in the year 2286


@dataclass(frozen=True, slots=True)
class HeaderReading:
    """One limit as a response described it; a field that the response lacks is None.

    `remaining` is the rest of `limit` after the response's own call. More becomes available `reset_s` after the
    response: one unit in some dialects, all in others. `unit` is requests, images, or the provider's own unit.
    `window_s` is the limit's period, `policy` its name if it has one.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None
    unit: str = "requests"
    window_s: float | None = None
    policy: str = ""


def read_headers(headers: Mapping[str, str], *, now_s: float | None = None) -> tuple[HeaderReading, ...]:
    """Every limit that the headers of a response describe in a readable form.

    Reads `X-RateLimit-{Limit,Remaining,Reset}[-UNIT]`, `RateLimit` and `RateLimit-Policy` of the IETF drafts
    with their forerunners `RateLimit-{Limit,Remaining,Reset}`, and ModelScope's daily ones. A reset that is an
    instant is measured from the response's `Date`, or, without one, from `now_s` (Unix time).
    """
    known = {
        name.lower(): value
        for name, value in headers.items()
        if isinstance(value, str) and "ratelimit" in name.lower() and len(value) <= _LONGEST
    }
    if not known:
        return ()
    server_now_s = _server_time(headers, now_s)
    found = [
        *_structured(known),
        *_old_draft(known, server_now_s),
        *_x_ratelimit(known, server_now_s),
        *_modelscope(known),
    ]
    stated = [each for each in found if each.remaining is not None or each.limit is not None]
    return tuple(stated[:_MOST_READINGS])


def tightest(
    readings: Iterable[HeaderReading], unit: str, window_s: float | None = None
) -> HeaderReading | None:
    """The reading on `unit` with the least `remaining`; None if no reading has it.

    With `window_s`, only readings of that period or without a period.
    """
    known = [
        each
        for each in readings
        if each.unit == unit
        and each.remaining is not None
        and (window_s is None or each.window_s is None or each.window_s == window_s)
    ]
    return min(known, key=lambda each: each.remaining or 0, default=None)


_X_RATELIMIT: Final = re.compile(
    r"x-ratelimit-(?P<what>limit|remaining|reset)(?:-(?P<unit>[a-z]{1,20}))?(?:-(?P<window>second|minute|hour|day))?"
)
_WINDOWS_S: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": DAY_S}


def _x_ratelimit(known: Mapping[str, str], server_now_s: float | None) -> Iterator[HeaderReading]:
    groups: dict[tuple[str, float | None], dict[str, str]] = {}
    for name, value in known.items():
        found = _X_RATELIMIT.fullmatch(name)
        if found is None:
            continue
        unit, window = found["unit"] or "requests", found["window"]
        if unit in _WINDOWS_S:
            unit, window = "requests", unit
        groups.setdefault((unit, _WINDOWS_S.get(window or "")), {})[found["what"]] = value
    for (unit, window_s), group in groups.items():
        yield HeaderReading(
            limit=_limit(group.get("limit")),
            remaining=_count(group.get("remaining")),
            reset_s=_reset(group.get("reset"), server_now_s),
            unit=unit,
            window_s=window_s,
        )


def _modelscope(known: Mapping[str, str]) -> Iterator[HeaderReading]:
    """Allowances of a day, for the account and for the model; the headers do not name the end of the day."""
    for policy, stem in (
        ("", "modelscope-ratelimit-requests"),
        ("model", "modelscope-ratelimit-model-requests"),
    ):
        yield HeaderReading(
            limit=_limit(known.get(f"{stem}-limit")),
            remaining=_count(known.get(f"{stem}-remaining")),
            window_s=DAY_S,
            policy=policy,
        )


def _old_draft(known: Mapping[str, str], server_now_s: float | None) -> Iterator[HeaderReading]:
    """Drafts up to 06, `RateLimit-Limit: 100, 100;w=10`; the first number is the nearest limit."""
    limits = _items(known.get("ratelimit-limit", ""))
    windows = [params["w"] for name, params in limits if limits and name == limits[0][0] and "w" in params]
    yield HeaderReading(
        limit=_limit(limits[0][0]) if limits else None,
        remaining=_count(known.get("ratelimit-remaining")),
        reset_s=_reset(known.get("ratelimit-reset"), server_now_s),
        window_s=_number(windows[0]) if windows else None,
    )


def _structured(known: Mapping[str, str]) -> Iterator[HeaderReading]:
    """Draft 07, `limit=100, remaining=50, reset=5`, and later ones, `"burst";r=50;t=5` beside its policy.

    Before draft 08 a policy had a number in place of a name: `100;w=10`.
    """
    policies = dict(_items(known.get("ratelimit-policy", "")))
    items = _items(known.get("ratelimit", ""))
    flat = {found[1]: found[2] for name, _ in items if (found := _DRAFT_07.fullmatch(name))}
    if flat:
        windows = [
            params["w"] for name, params in policies.items() if name == flat.get("limit") and "w" in params
        ]
        yield HeaderReading(
            limit=_limit(flat.get("limit")),
            remaining=_count(flat.get("remaining")),
            reset_s=_number(flat.get("reset")),
            window_s=_number(windows[0]) if windows else None,
        )
        return
    for name, params in items:
        yield _with_policy(name, params, policies.pop(name, {}))
    for name, params in policies.items():
        yield _with_policy(name, {}, params)


def _with_policy(name: str, params: Mapping[str, str], policy: Mapping[str, str]) -> HeaderReading:
    limit = _limit(policy.get("q")) or _limit(name if "q" not in policy and policy else None)
    return HeaderReading(
        limit=limit,
        remaining=_count(params.get("r")),
        reset_s=_number(params.get("t")),
        unit=(policy.get("qu") or "requests").lower()[:32],
        window_s=_number(policy.get("w")),
        policy=name[:64],
    )


_DRAFT_07: Final = re.compile(r"(limit|remaining|reset)=(.*)")
# A quote without an end ends with the text, so the expressions never scan a part twice.
_QUOTED: Final = r'"(?:[^"\\]|\\.?)*(?:"|\Z)'
_ITEM: Final = re.compile(rf'(?:{_QUOTED}|[^",])+')
_PART: Final = re.compile(rf'(?:{_QUOTED}|[^";])+')


def _items(text: str) -> list[tuple[str, dict[str, str]]]:
    """A list of structured fields as (item, parameters), all of them text without quotes."""
    items = []
    for item in _ITEM.findall(text):
        name, *rest = (part.strip() for part in _PART.findall(item) or [""])
        params = {}
        for part in rest:
            key, _, value = part.partition("=")
            params[key.strip().lower()] = _unquoted(value.strip())
        if name:
            items.append((_unquoted(name), params))
    return items


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _limit(text: str | None) -> int | None:
    """The limit; None for 0, which some gateways send if they limit nothing."""
    return _count(text) or None


def _count(text: str | None) -> int | None:
    """Whole units, rounded down. None below 0, which some providers send if they limit nothing."""
    value = _number(text)
    return None if value is None else math.floor(value)


def _reset(text: str | None, server_now_s: float | None) -> float | None:
    """`1s`, `6m0s`, `12ms`; a number of seconds; or an instant in seconds or milliseconds."""
    value = _number(text)
    if value is None or text is None:
        return None if text is None else _duration(text)
    if value < _INSTANT_FROM_S:
        return value
    if value >= _INSTANT_MS_FROM:
        value /= 1000
    # By the provider's clock if it sent a Date, else by ours.
    return None if server_now_s is None else max(0.0, value - server_now_s)


_DURATION: Final = re.compile(
    r"(?=\d)(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?"
    r"(?:(\d{1,9}(?:\.\d{1,9})?)ms)?(?:(\d{1,9}(?:\.\d{1,9})?)[uµ]s)?",
    re.ASCII,
)
_SIZES_S: Final = (DAY_S, 3600.0, 60.0, 1.0, 1e-3, 1e-6)


def _duration(text: str) -> float | None:
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return None
    return sum(float(part or 0) * size_s for part, size_s in zip(found.groups(), _SIZES_S, strict=True))


_NUMBER: Final = re.compile(r"[+-]?\d{1,18}(?:\.\d{1,18})?", re.ASCII)


def _number(text: str | None) -> float | None:
    """A number from 0 on in plain ASCII digits. Exponents and infinities are not read: no provider sends them."""
    if text is None or _NUMBER.fullmatch(text.strip()) is None:
        return None
    return float(text) if 0 <= float(text) <= _LARGEST else None


def _server_time(headers: Mapping[str, str], now_s: float | None) -> float | None:
    date = next((value for name, value in headers.items() if name.lower() == "date"), None)
    try:
        return now_s if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return now_s
