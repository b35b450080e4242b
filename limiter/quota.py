"""What a quota is: the limits of one provider account, how TOML spells them, and their arithmetic.

Everything here is pure. A quota is a name and its limits; a limit is a strict window, a continuous token
bucket, or a number of calls in flight. A quota has at most one limit a unit; a second one is a second quota.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

UNITS: Final = ("requests", "images", "polls")

_SECOND_US: Final = 1_000_000
_PERIODS_US: Final = {
    "s": _SECOND_US,
    "min": 60 * _SECOND_US,
    "h": 3_600 * _SECOND_US,
    "d": 86_400 * _SECOND_US,
}
_LONGEST_PERIOD_US: Final = 366 * _PERIODS_US["d"]
# Scripts count in doubles, which are exact up to 2^53; what they multiply must stay below it.
_LARGEST_EXACT: Final = 2**53
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RATE: Final = re.compile(r"(?P<count>[0-9]{1,9})/(?P<times>[0-9]{0,9})(?P<period>s|min|h|d)")

# Published limits of providers, as their TOML would be. A preset's field can be overridden beside it.
PRESETS: Final[Mapping[str, Mapping[str, object]]] = {
    # Tencent Cloud, Hunyuan image generation: one submitted job by default, 20 API calls a second, for each
    # sub-account and region. cloud.tencent.com/document/api/1729/105970 and 1668/124632, as of 2026-11.
    "tencent-hunyuan": {"in_flight": 1, "requests": "20/s"},
}


class QuotaError(ValueError):
    """A quota that cannot be, or a cost that can never fit one; the sentence says where and what to write."""


@dataclass(frozen=True, slots=True)
class Window:
    """Never more than `count` units in any period: a unit comes back one period after its use."""

    count: int
    period_us: int
    unit: str = "requests"

    def __post_init__(self) -> None:
        _check_unit(self.unit)
        _check_rate(self.count, self.period_us)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket that holds `burst` units and gains `count` of them a period, continuously."""

    count: int
    period_us: int
    burst: int
    unit: str = "requests"

    def __post_init__(self) -> None:
        _check_unit(self.unit)
        _check_rate(self.count, self.period_us)
        if self.burst < 1:
            raise QuotaError(f"a bucket needs a burst of at least 1, not {self.burst}")
        if self.burst * self.period_us >= _LARGEST_EXACT:
            raise QuotaError(f"a burst of {self.burst} is too large for so long a period")


@dataclass(frozen=True, slots=True)
class InFlight:
    """At most `count` calls between their grant and their release; every permit weighs 1."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise QuotaError(f"in_flight must be at least 1, not {self.count}")

    @property
    def unit(self) -> str:
        return "in_flight"


Limit = Window | Bucket | InFlight


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one provider account; all of them hold together."""

    name: str
    limits: tuple[Limit, ...] = field(default=())

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise QuotaError(
                f"quota name {self.name!r} is not usable; write letters, digits, . _ -, like 'openai-main'"
            )
        units = [limit.unit for limit in self.limits]
        for unit in units:
            if units.count(unit) > 1:
                raise QuotaError(
                    f"quota {self.name!r} has two limits on {unit}: give the second one a quota of its own, "
                    "and name both in the route"
                )

    @property
    def tolerance_s(self) -> float:
        """How late after its slot a call may be sent, in seconds, without being counted anew: half the guard.

        The other half is for the way to the provider. Without a strict window there is nothing to be late for.
        """
        guards = (guard_us(limit.period_us) for limit in self.limits if isinstance(limit, Window))
        return min(guards, default=_LONGEST_PERIOD_US) / 2 / _SECOND_US

    def optimum_s(self, n: int, service_s: float = 0) -> float:
        """The least time, in seconds from an idle start, in which `n` calls of cost 1 can have ended.

        `service_s` is how long one call takes. Exact under one limit, a lower bound under several; without
        guards, so a perfect sender that knows the provider's clock could reach it.
        """
        if n <= 0:
            return 0.0
        return max((_last_start_s(limit, n, service_s) for limit in self.limits), default=0.0) + service_s


def guard_us(period_us: int) -> int:
    """How much longer than the provider's window ours is kept: a hundredth of it, within 5 ms to 100 ms.

    A provider counts arrivals, not sends. If delays between a granted slot and the arrival differ by at most
    J, two sends a window W apart can arrive W-J apart, so a log kept for W+g is never refused when g >= J,
    and costs the share g/(W+g) of the rate; no sender can promise more than W/(W+J). A hundredth is what 99 %
    allows. Below 5 ms one pause of an event loop is already more; above 100 ms a long window would pay for
    delays that a near provider does not have. Measured lag can size this later; nobody else computes it.
    """
    return min(max(period_us // 100, 5_000), 100_000)


def check_cost(quota: Quota, costs: Mapping[str, int]) -> None:
    """Refuse, with QuotaError, a cost below 0 or one that no waiting can ever fit under this quota."""
    for limit in quota.limits:
        if isinstance(limit, InFlight):
            continue
        cost = costs.get(limit.unit, 0)
        most = limit.burst if isinstance(limit, Bucket) else limit.count
        if not 0 <= cost <= most:
            raise QuotaError(
                f"a cost of {cost} {limit.unit} can never be granted by quota {quota.name!r}, "
                f"which grants 0 to {most} at once: split the call, or raise the limit"
            )


def parse_quota(name: str, spec: Mapping[str, object]) -> Quota:
    """The quota that a `[quotas.NAME]` table of the configuration describes.

    Errors: QuotaError, whose sentence names the quota and the field and shows a right example.
    """
    fields = _with_preset(name, spec)
    limits = tuple(_parse_limit(name, key, value) for key, value in fields.items())
    if not limits:
        raise QuotaError(f'quota {name!r} sets no limit: write at least one, like images = "20/min"')
    return Quota(name, limits)


def _last_start_s(limit: Limit, n: int, service_s: float) -> float:
    match limit:
        case Window(count, period_us):
            return (n - 1) // count * period_us / _SECOND_US
        case Bucket(count, period_us, burst):
            return max(0, n - burst) * period_us / (count * _SECOND_US)
        case InFlight(count):
            return (n - 1) // count * service_s


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
    return {**PRESETS[preset], **fields}


def _parse_limit(name: str, key: str, value: object) -> Limit:
    where = f"quota {name!r}, field {key!r}"
    if key == "in_flight":
        return InFlight(_whole(where, value, "in_flight = 8"))
    if key in UNITS:
        return _parse_rate_limit(where, key, value)
    _refuse_later_forms(where, {key})
    near = difflib.get_close_matches(key, (*UNITS, "in_flight", "preset"), n=1)
    hint = (
        f"did you mean {near[0]!r}?" if near else 'limits are written like images = "20/min" or in_flight = 8'
    )
    raise QuotaError(f"{where} is unknown; {hint}")


def _parse_rate_limit(where: str, unit: str, value: object) -> Limit:
    if isinstance(value, str):
        return Window(*_parse_rate(where, value, f'{unit} = "20/min"'), unit)
    example = f'{unit} = {{ rate = "50/min", burst = 5 }}'
    if not isinstance(value, Mapping):
        raise QuotaError(f'{where}: {value!r} is not a rate; write {unit} = "20/min" or {example}')
    _refuse_later_forms(where, value)
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
    count, period_us = int(found["count"]), int(found["times"] or 1) * _PERIODS_US[found["period"]]
    if count < 1 or not 0 < period_us <= _LONGEST_PERIOD_US:
        raise QuotaError(
            f"{where}: {value!r} must be at least 1 in a period of 1 s to 366 d; write {example}"
        )
    return count, period_us


def _whole(where: str, value: object, example: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise QuotaError(f"{where}: {value!r} must be a whole number of at least 1; write {example}")
    return value


def _refuse_later_forms(where: str, keys: Mapping[object, object] | set[str]) -> None:
    """The one place that knows which forms a later version will have."""
    if "adaptive" in keys:
        raise QuotaError(
            f"{where}: rates that adapt are not in this version yet; "
            'take it out and write the rate itself, like images = "20/min"'
        )
    if "reset" in keys:
        raise QuotaError(
            f"{where}: limits that reset at midnight are not in this version yet; "
            'write a window of a day, "2000/d", which is never looser'
        )


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise QuotaError(f"a rate counts {', '.join(UNITS)}, not {unit!r}")


def _check_rate(count: int, period_us: int) -> None:
    if count < 1 or not 0 < period_us <= _LONGEST_PERIOD_US:
        raise QuotaError(
            f"a rate needs a count of at least 1 and a period of up to 366 days, not {count}/{period_us} µs"
        )
