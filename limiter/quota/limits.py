"""Defines the kinds of limit that a provider account can have, and their arithmetic; everything here is pure.

Times are integer µs. A cost is a number of units: a call costs 1 request, n images, and weighs w in flight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from functools import lru_cache
from typing import ClassVar, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

POLLS: Final = "polls"
POLLS_OF: Final = f".{POLLS}"  # ends the name of the quota that an account's polls have for themselves
UNITS: Final = ("requests", "images", POLLS)
IN_FLIGHT: Final = "in_flight"

SECOND_US: Final = 1_000_000
PERIODS_US: Final = {
    "ms": 1_000,
    "s": SECOND_US,
    "min": 60 * SECOND_US,
    "h": 3_600 * SECOND_US,
    "d": 86_400 * SECOND_US,
}
LONGEST_PERIOD_US: Final = 366 * PERIODS_US["d"]
# Up to this count a window's book keeps each unit; above it, the number of units in each 256th of the window.
EXACT_MOST: Final = 2_000
# Scripts count in doubles, which are exact up to 2^53; their products must stay below it.
_LARGEST_EXACT: Final = 2**53
_DAYS_AHEAD: Final = 4
GUARD_LEAST_US: Final = 5_000
GUARD_MOST_US: Final = 100_000


class QuotaError(ValueError):
    """An invalid quota, or a cost that can never fit a quota.

    `problems` has a sentence for each fault, which says where and what to write.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Limit:
    """The common part of all kinds; `kind` names the scripts' book of used units."""

    __slots__ = ()
    kind: ClassVar[str]
    count: int
    unit: str

    @property
    def most(self) -> int:
        """The largest cost that can ever be granted at once."""
        return self.count

    @property
    def guard_us(self) -> int:
        """The guard for calls that arrive unevenly; 0 for a limit without a rate."""
        return LONGEST_PERIOD_US


class _Rate(_Limit):
    """A limit of units over time."""

    __slots__ = ()
    period_us: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise QuotaError(f"a rate counts {', '.join(UNITS)}, not {self.unit!r}")
        if self.count < 1 or not 0 < self.period_us <= LONGEST_PERIOD_US:
            rate = f"{self.count}/{self.period_us} µs"
            raise QuotaError(f"a rate needs a count of at least 1 and a period of up to 366 days, not {rate}")


@dataclass(frozen=True, slots=True)
class Window(_Rate):
    """Never more than `count` units in any period: a unit comes back one period after its use.

    A count of 1 is spacing: one unit, then a pause of a period.
    """

    count: int
    period_us: int
    unit: str = "requests"

    @property
    def kind(self) -> str:  # type: ignore[override] # the one kind that has two books
        return "log" if self.exact else "slices"

    @property
    def exact(self) -> bool:
        """Whether the book keeps each unit, and not only a count for each slice of the window."""
        return self.count <= EXACT_MOST

    @property
    def guard_us(self) -> int:
        return guard_us(self.period_us)

    @property
    def span_us(self) -> int:
        """How long a unit stays in our books: the provider's period and the guard."""
        return self.period_us + self.guard_us

    def last_start_s(self, n: int, service_s: float) -> float:  # noqa: ARG002 - every kind has the same signature
        return (n - 1) // self.count * self.period_us / SECOND_US


@dataclass(frozen=True, slots=True)
class Bucket(_Rate):
    """A token bucket that holds `burst` units and gains `count` of them a period, continuously."""

    kind: ClassVar[str] = "tokens"
    count: int
    period_us: int
    burst: int
    unit: str = "requests"

    def __post_init__(self) -> None:
        _Rate.__post_init__(self)
        if self.burst < 1:
            raise QuotaError(f"a bucket needs a burst of at least 1, not {self.burst}")
        if self.burst * self.period_us >= _LARGEST_EXACT:
            raise QuotaError(f"a burst of {self.burst} is too large for so long a period")

    @property
    def most(self) -> int:
        return self.burst

    @property
    def lag_us(self) -> int:
        """How unevenly calls may arrive without a refusal, like the guard of a window.

        A bucket of several units loses it only once after each burst, so it may be as long as one unit takes to come
        back. A bucket of one loses it after each call, so it is a hundredth there, which leaves 99 % of the rate.
        """
        unit_us = self.period_us // self.count
        if self.burst == 1:
            return min(unit_us // 100, GUARD_MOST_US)
        return min(guard_us(self.burst * unit_us), unit_us)

    @property
    def guard_us(self) -> int:
        return max(self.lag_us, GUARD_LEAST_US)

    def last_start_s(self, n: int, service_s: float) -> float:  # noqa: ARG002
        return max(0, n - self.burst) * self.period_us / (self.count * SECOND_US)


@dataclass(frozen=True, slots=True)
class FixedWindow(_Rate):
    """At most `count` units in each window of the provider's clock: they begin at multiples of the period.

    For providers that are known to count whole seconds or minutes. All of a window can be used at once, and no share
    of it is lost to a guard. The provider's clock must not differ from the server's by more than the guard.
    """

    kind: ClassVar[str] = "fixed"
    count: int
    period_us: int
    unit: str = "requests"

    @property
    def guard_us(self) -> int:
        """The time before and after the start of a window without calls: a tenth of it, half a second at most."""
        return min(self.period_us // 10, 500_000)

    def last_start_s(self, n: int, service_s: float) -> float:  # noqa: ARG002
        # The least over all times to start: one window's units at its end, the next window's at its start.
        windows = (n - 1) // self.count
        return max(0, windows - 1) * self.period_us / SECOND_US


@dataclass(frozen=True, slots=True)
class CalendarDay(_Rate):
    """At most `count` units a day; all of them come back at midnight in `zone` (an IANA name)."""

    kind: ClassVar[str] = "day"
    count: int
    zone: str
    unit: str = "requests"
    period_us: int = field(default=PERIODS_US["d"], init=False, repr=False)

    def __post_init__(self) -> None:
        _Rate.__post_init__(self)
        _zone(self.zone)

    def midnights_us(self, wall_us: int) -> str:
        """The starts of yesterday, today and the days after, at the time `wall_us`, in the form of the scripts."""
        today = datetime.fromtimestamp(wall_us / SECOND_US, _zone(self.zone)).date().toordinal()
        return _midnights_us(self.zone, today)

    def last_start_s(self, n: int, service_s: float) -> float:  # noqa: ARG002
        # The least over all times to start: one day's units just before midnight, the next day's just after.
        days = (n - 1) // self.count
        return max(0, days - 1) * PERIODS_US["d"] / SECOND_US


@dataclass(frozen=True, slots=True)
class InFlight(_Limit):
    """At most `count` between grant and release, counted in calls, or with `weighed_by` in units of their cost.

    A call that names no cost weighs 1; a caller may name its weight as the cost of `in_flight`.
    """

    kind: ClassVar[str] = IN_FLIGHT
    count: int
    weighed_by: str = IN_FLIGHT
    unit: str = field(default=IN_FLIGHT, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise QuotaError(f"in_flight must be at least 1, not {self.count}")
        if self.weighed_by not in (IN_FLIGHT, *UNITS):
            raise QuotaError(f"calls in flight are weighed by {', '.join(UNITS)}, not {self.weighed_by!r}")

    def last_start_s(self, n: int, service_s: float) -> float:
        return (n - 1) // self.count * service_s


Limit = Window | Bucket | FixedWindow | CalendarDay | InFlight


def guard_us(period_us: int) -> int:
    """The time by which our window is longer than the provider's: a hundredth of it, within 5 ms to 100 ms.

    A provider counts arrivals, not sends. If delays between slot and arrival differ by at most J, two sends a window
    W apart can arrive W-J apart. A log kept for W+g is never refused if g >= J. It costs the share g/(W+g) of the
    rate; no sender can promise more than W/(W+J). A hundredth leaves 99 % of the rate. One pause of an event loop is
    longer than 5 ms. Above 100 ms a long window would pay for delays that a near provider does not have. Measured
    delays can widen the guard, see scripts/include/quota.lua.
    """
    return min(max(period_us // 100, GUARD_LEAST_US), GUARD_MOST_US)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise QuotaError(
            f"time zone {name!r} is unknown here; write an IANA name like 'Asia/Shanghai' or 'UTC' "
            "(and install tzdata where the system has no zones)"
        ) from None


@lru_cache(maxsize=256)
def _midnights_us(zone: str, today: int) -> str:
    midnights = (
        datetime.combine(datetime.fromordinal(today) + timedelta(days=day), time(), _zone(zone))
        for day in range(-1, _DAYS_AHEAD + 1)
    )
    return " ".join(str(round(midnight.timestamp()) * SECOND_US) for midnight in midnights)
