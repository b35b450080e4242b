"""Parses the limits of a quota from their TOML form; each error shows a right example."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from limiter.quota.limits import (
    IN_FLIGHT,
    LONGEST_PERIOD_US,
    PERIODS_US,
    UNITS,
    Bucket,
    CalendarDay,
    FixedWindow,
    InFlight,
    Limit,
    QuotaError,
    Window,
)
from limiter.quota.presets import PRESETS

_RATE: Final = re.compile(r"(?P<count>[0-9]{1,9})/(?P<times>[0-9]{0,9})(?P<period>s|min|h|d|day)")
_TIME: Final = re.compile(r"(?P<times>[0-9]{1,9}(\.[0-9]{1,6})?)(?P<period>ms|s|min|h|d)")


def parse_limits(name: str, spec: Mapping[str, object]) -> tuple[Limit, ...]:
    """The limits that the table of the quota `name` describes.

    Errors: QuotaError with every fault; each sentence names the quota and the field and shows a right example.
    """
    fields = dict(spec)
    preset = fields.pop("preset", None)
    limits: list[Limit] = []
    problems: list[str] = []
    if isinstance(preset, str) and preset in PRESETS:
        # A field beside the preset replaces the preset's own.
        fields = {**PRESETS[preset].limits, **fields}
    elif preset is not None:
        known = ", ".join(sorted(PRESETS))
        problems.append(
            f'quota {name!r}: preset {preset!r} is unknown; known: {known}. Or write requests = "20/s"'
        )
    for key, value in fields.items():
        try:
            limits += _limits(key, value)
        except QuotaError as error:
            problems.append(f"quota {name!r}, field {key!r}: {error}")
    if problems:
        raise QuotaError(*problems)
    return tuple(limits)


def _limits(key: str, value: object) -> list[Limit]:
    if key == IN_FLIGHT:
        return [_in_flight(value)]
    if key not in UNITS:
        near = difflib.get_close_matches(key, (*UNITS, IN_FLIGHT, "preset", "adaptive"), n=1)
        example = 'limits are written like images = "20/min" or in_flight = 8'
        raise QuotaError(f"it is unknown; {f'did you mean {near[0]!r}?' if near else example}")
    if value == []:
        raise QuotaError(f'the list is empty; write {key} = ["10/s", "120/min"]')
    return [_rate_limit(key, each) for each in (value if isinstance(value, list) else [value])]


def _in_flight(value: object) -> InFlight:
    if not isinstance(value, Mapping):
        return InFlight(_whole(value, "in_flight = 8"))
    example = "in_flight = { images = 16 }"
    if len(value) != 1 or not set(value) <= set(UNITS):
        units = ", ".join(UNITS)
        raise QuotaError(f"a table names the one unit ({units}) that calls are weighed by; write {example}")
    [(unit, count)] = value.items()
    return InFlight(_whole(count, example), unit)


def _rate_limit(unit: str, value: object) -> Limit:
    if isinstance(value, str):
        return Window(*_rate(value, f'{unit} = "20/min"'), unit)
    example = f'{unit} = {{ rate = "50/min", burst = 5 }}'
    if not isinstance(value, Mapping):
        raise QuotaError(f'{value!r} is not a rate; write {unit} = "20/min" or {example}')
    if "adaptive" in value:
        raise QuotaError(f"a quota adapts as a whole; write adaptive = true beside {unit}, not inside of it")
    if "every" in value:
        example = f'{unit} = {{ every = "2s" }}'
        _check_fields(value, "spacing", {"every"}, example)
        return Window(1, _time_us(value["every"], example), unit)
    if "reset" in value:
        example = f'{unit} = {{ rate = "2000/day", reset = "Asia/Shanghai" }}'
        _check_fields(value, "a calendar day", {"rate", "reset"}, example)
        count, period_us = _rate(value["rate"], example)
        if period_us != PERIODS_US["d"]:
            raise QuotaError(f"only a rate of one day can reset at midnight; write {example}")
        return _made(example, CalendarDay, count, str(value["reset"]), unit)
    if "window" in value:
        example = f'{unit} = {{ rate = "20/s", window = "fixed" }}'
        _check_fields(value, "a window of the provider's clock", {"rate", "window"}, example)
        if value["window"] != "fixed":
            raise QuotaError(f"a window beside a rate can only be fixed; write {example}")
        return FixedWindow(*_rate(value["rate"], example), unit)
    _check_fields(value, "a token bucket", {"rate", "burst"}, example)
    return _made(example, Bucket, *_rate(value["rate"], example), _whole(value["burst"], example), unit)


def _made(example: str, kind: Callable[..., Limit], *fields: object) -> Limit:
    try:
        return kind(*fields)
    except QuotaError as error:
        raise QuotaError(f"{error}; write {example}") from None


def _check_fields(value: Mapping[str, object], what: str, fields: set[str], example: str) -> None:
    if set(value) != fields:
        raise QuotaError(f"{what} has exactly {' and '.join(sorted(fields))}; write {example}")


def _time_us(value: object, example: str) -> int:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    period_us = int(Decimal(found["times"]) * PERIODS_US[found["period"]]) if found else 0
    if not 0 < period_us <= LONGEST_PERIOD_US:
        times = "a number and ms, s, min, h or d, above 0 and at most 366 d"
        raise QuotaError(f"{value!r} is not a time, which is {times}; write {example}")
    return period_us


def _rate(value: object, example: str) -> tuple[int, int]:
    """`"20/min"` or `"60/10s"` as (count, period in µs)."""
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise QuotaError(
            f"{value!r} is not a rate; it is a whole number, '/', and a period s, min, h or d "
            f'or a number of them as in "60/10s"; write {example}'
        )
    count = int(found["count"])
    period_us = int(found["times"] or 1) * PERIODS_US[found["period"].replace("day", "d")]
    if count < 1 or not 0 < period_us <= LONGEST_PERIOD_US:
        raise QuotaError(f"{value!r} must be at least 1 in a period of 1 s to 366 d; write {example}")
    return count, period_us


def _whole(value: object, example: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise QuotaError(f"{value!r} must be a whole number of at least 1; write {example}")
    return value
