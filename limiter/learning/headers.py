"""What a provider's rate headers say, in one neutral form, and how far that may tighten our own books.

Headers are hints: they are late, rounded, and of several dialects. So they never loosen anything here, and what
cannot be read is left out, never an error. Retry-After is not read here: it is an order, not a hint.
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
_INSTANT_FROM_S: Final = 1e9  # as seconds to go it would be 31 years
_INSTANT_MS_FROM: Final = 1e10  # as an instant in seconds it would be the year 2286


@dataclass(frozen=True, slots=True)
class HeaderReading:
    """One limit as a response described it; None is what it did not say.

    `remaining` is what was left of `limit` when the response was made, its own call counted. `reset_s` (from the
    response on) is when more is there: in some dialects one unit more, in others all. `unit` is requests, images,
    or what the provider counts. `window_s` is the limit's period, `policy` its name where it has one.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None
    unit: str = "requests"
    window_s: float | None = None
    policy: str = ""


def read_headers(headers: Mapping[str, str], *, now_s: float | None = None) -> tuple[HeaderReading, ...]:
    """Every limit that the headers of a response describe, none if there is none that can be read.

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
    """The reading on `unit` that leaves least; None where none says what is left.

    With `window_s`, only readings of that period and those that do not name theirs.
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
    for (unit, window_s), said in groups.items():
        yield HeaderReading(
            limit=_limit(said.get("limit")),
            remaining=_count(said.get("remaining")),
            reset_s=_reset(said.get("reset"), server_now_s),
            unit=unit,
            window_s=window_s,
        )


def _modelscope(known: Mapping[str, str]) -> Iterator[HeaderReading]:
    """Allowances of a day, for the account and for the model; when the day ends is not said."""
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
    """Drafts up to 06, `RateLimit-Limit: 100, 100;w=10`, of which the first number is the limit that is nearest."""
    limits = _items(known.get("ratelimit-limit", ""))
    windows = [params["w"] for name, params in limits if limits and name == limits[0][0] and "w" in params]
    yield HeaderReading(
        limit=_limit(limits[0][0]) if limits else None,
        remaining=_count(known.get("ratelimit-remaining")),
        reset_s=_reset(known.get("ratelimit-reset"), server_now_s),
        window_s=_number(windows[0]) if windows else None,
    )


def _structured(known: Mapping[str, str]) -> Iterator[HeaderReading]:
    """Draft 07, `limit=100, remaining=50, reset=5`, and those after it, `"burst";r=50;t=5` beside its policy.

    Before draft 08 a policy had no name but its number: `100;w=10`.
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
# A quote that never ends, ends with the text: so no part is looked at twice.
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
    """Some gateways send 0 where they limit nothing, so it is no limit."""
    return _count(text) or None


def _count(text: str | None) -> int | None:
    """Whole units; of a fraction, the part that is whole. Below 0 some mean that nothing is limited."""
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
    """From 0 on. No exponents, no infinities, no digits of other scripts: what no provider writes is not guessed at."""
    if text is None or _NUMBER.fullmatch(text.strip()) is None:
        return None
    return float(text) if 0 <= float(text) <= _LARGEST else None


def _server_time(headers: Mapping[str, str], now_s: float | None) -> float | None:
    date = next((value for name, value in headers.items() if name.lower() == "date"), None)
    try:
        return now_s if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return now_s
