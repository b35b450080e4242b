"""How the limits of a quota are spelled in TOML, and what is said about one that is spelled wrongly."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
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

    Errors: QuotaError, whose sentence names the quota and the field and shows a right example.
    """
    fields = _with_preset(name, spec)
    return tuple(limit for key, value in fields.items() for limit in _parse_field(name, key, value))


def _with_preset(name: str, spec: Mapping[str, object]) -> dict[str, object]:
    fields = dict(spec)
    preset = fields.pop("preset", None)
    if preset is None:
        return fields
    if not isinstance(preset, str) or preset not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise QuotaError(
            f'quota {name!r}: preset {preset!r} is unknown; known: {known}. Or write requests = "20/s"'
        )
    # A field beside the preset takes the place of the preset's own.
    return {**PRESETS[preset].limits, **fields}


def _parse_field(name: str, key: str, value: object) -> Iterator[Limit]:
    where = f"quota {name!r}, field {key!r}"
    if key == IN_FLIGHT:
        yield _parse_in_flight(where, value)
    elif key in UNITS and isinstance(value, list):
        if not value:
            raise QuotaError(f'{where}: the list is empty; write {key} = ["10/s", "120/min"]')
        for each in value:
            yield _parse_rate_limit(where, key, each)
    elif key in UNITS:
        yield _parse_rate_limit(where, key, value)
    else:
        near = difflib.get_close_matches(key, (*UNITS, IN_FLIGHT, "preset", "adaptive"), n=1)
        example = 'limits are written like images = "20/min" or in_flight = 8'
        raise QuotaError(f"{where} is unknown; {f'did you mean {near[0]!r}?' if near else example}")


def _parse_in_flight(where: str, value: object) -> InFlight:
    if not isinstance(value, Mapping):
        return InFlight(_whole(where, value, "in_flight = 8"))
    example = "in_flight = { images = 16 }"
    if len(value) != 1 or not set(value) <= set(UNITS):
        raise QuotaError(
            f"{where}: a table names the one unit ({', '.join(UNITS)}) that calls are weighed by; write {example}"
        )
    [(unit, count)] = value.items()
    return InFlight(_whole(where, count, example), unit)


def _parse_rate_limit(where: str, unit: str, value: object) -> Limit:
    if isinstance(value, str):
        return Window(*_parse_rate(where, value, f'{unit} = "20/min"'), unit)
    bucket = f'{unit} = {{ rate = "50/min", burst = 5 }}'
    if not isinstance(value, Mapping):
        raise QuotaError(f'{where}: {value!r} is not a rate; write {unit} = "20/min" or {bucket}')
    if "adaptive" in value:
        raise QuotaError(
            f"{where}: a quota adapts as a whole; write adaptive = true beside {unit}, not inside of it"
        )
    try:
        if "every" in value:
            return _parse_spacing(where, unit, value)
        if "reset" in value:
            return _parse_day(where, unit, value)
        if "window" in value:
            return _parse_fixed(where, unit, value)
        return _parse_bucket(where, unit, value, bucket)
    except QuotaError as error:
        sentence = str(error)
        raise QuotaError(sentence if sentence.startswith(where) else f"{where}: {sentence}") from None


def _parse_spacing(where: str, unit: str, value: Mapping[str, object]) -> Window:
    example = f'{unit} = {{ every = "2s" }}'
    every = value["every"]
    found = _TIME.fullmatch(every) if isinstance(every, str) else None
    if set(value) != {"every"} or found is None:
        raise QuotaError(
            f"{where}: spacing has exactly one time, a number and ms, s, min, h or d; write {example}"
        )
    period_us = int(Decimal(found["times"]) * PERIODS_US[found["period"]])
    if not 0 < period_us <= LONGEST_PERIOD_US:
        raise QuotaError(f"{where}: {every!r} must be above 0 and at most 366 d; write {example}")
    return Window(1, period_us, unit)


def _parse_day(where: str, unit: str, value: Mapping[str, object]) -> CalendarDay:
    example = f'{unit} = {{ rate = "2000/day", reset = "Asia/Shanghai" }}'
    zone = value["reset"]
    if set(value) != {"rate", "reset"} or not isinstance(zone, str):
        raise QuotaError(f"{where}: a calendar day has exactly a rate and a reset; write {example}")
    count, period_us = _parse_rate(f"{where}, rate", value["rate"], example)
    if period_us != PERIODS_US["d"]:
        raise QuotaError(f"{where}: only a rate of one day can reset at midnight; write {example}")
    try:
        return CalendarDay(count, zone, unit)
    except QuotaError as error:
        raise QuotaError(f"{where}: {error}; write {example}") from None


def _parse_fixed(where: str, unit: str, value: Mapping[str, object]) -> FixedWindow:
    example = f'{unit} = {{ rate = "20/s", window = "fixed" }}'
    if set(value) != {"rate", "window"} or value["window"] != "fixed":
        raise QuotaError(
            f'{where}: a window of the provider\'s clock has exactly a rate and window = "fixed"; write {example}'
        )
    return FixedWindow(*_parse_rate(f"{where}, rate", value["rate"], example), unit)


def _parse_bucket(where: str, unit: str, value: Mapping[str, object], example: str) -> Bucket:
    if set(value) != {"rate", "burst"}:
        raise QuotaError(f"{where}: a token bucket has exactly a rate and a burst; write {example}")
    count, period_us = _parse_rate(f"{where}, rate", value["rate"], example)
    burst = _whole(f"{where}, burst", value["burst"], example)
    try:
        return Bucket(count, period_us, burst, unit)
    except QuotaError as error:
        raise QuotaError(f"{where}: {error}; write {example}") from None


def _parse_rate(where: str, value: object, example: str) -> tuple[int, int]:
    """`"20/min"` or `"60/10s"` as (count, period in µs)."""
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise QuotaError(
            f"{where}: {value!r} is not a rate; it is a whole number, '/', and a period s, min, h or d "
            f'or a number of them as in "60/10s"; write {example}'
        )
    count = int(found["count"])
    period_us = int(found["times"] or 1) * PERIODS_US[found["period"].replace("day", "d")]
    if count < 1 or not 0 < period_us <= LONGEST_PERIOD_US:
        raise QuotaError(
            f"{where}: {value!r} must be at least 1 in a period of 1 s to 366 d; write {example}"
        )
    return count, period_us


def _whole(where: str, value: object, example: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise QuotaError(f"{where}: {value!r} must be a whole number of at least 1; write {example}")
    return value
