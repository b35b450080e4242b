"""Explains in one sentence why a quota holds calls back; everything here is pure."""

from __future__ import annotations

from dataclasses import dataclass

from limiter.permit import COOLDOWN, PAUSED, QuotaState, UnitState
from limiter.quota.limits import (
    IN_FLIGHT,
    PERIODS_US,
    Bucket,
    CalendarDay,
    FixedWindow,
    InFlight,
    Limit,
    Window,
)
from limiter.quota.quota import Quota


@dataclass(frozen=True, slots=True)
class Explanation:
    """A quota, why its next call waits, and until when.

    `bound` is paused, cooldown, in_flight or a unit; None if a call could be sent now. The limits grant the next call
    in `next_slot_s` seconds (0: now). That is None if the time is unknown: in a pause without an end, or if a call in
    flight must end first. `pause_ends_s` is the rest of a pause, None without an end or without a pause. `limits` are
    spelled as in the configuration.
    """

    state: QuotaState
    limits: tuple[str, ...]
    bound: str | None
    next_slot_s: float | None
    pause_ends_s: float | None = None

    @property
    def sentence(self) -> str:
        """One line without the quota's name: why the next call waits, until when, and how much is left."""
        return f"{self._reason}; {_left(self.state)}"

    @property
    def _reason(self) -> str:
        state, slot_s = self.state, self.next_slot_s or 0.0
        match self.bound:
            case None:
                return "a call can be sent now"
            case "paused":
                why = f" ({state.paused_reason})" if state.paused_reason else ""
                ends_s = self.pause_ends_s
                until = "until it is resumed" if ends_s is None else f"for {wait_text(ends_s)} more"
                return f"paused{why}, {until}"
            case "cooldown":
                why = f" ({state.cooldown_reason})" if state.cooldown_reason else ""
                wait = wait_text(max(state.cooldown_s, slot_s))
                return f"the provider requested a pause{why}; the next slot is in {wait}"
            case "in_flight":
                return "all places in flight are taken; the next slot is when one of these calls ends"
            case unit:
                return f"its {unit} are used up; the next slot is in {wait_text(slot_s)}"


def explained(
    quota: Quota, state: QuotaState, rate_bound: str | None = None, rate_s: float = 0.0
) -> Explanation:
    """The explanation of a quota's state.

    Its rates and its cooldown hold the next call back for `rate_s`; `rate_bound` names the one that does.
    """
    bound = _first_bound(state) or (rate_bound if rate_s > 0 else None)
    next_slot_s: float | None = rate_s
    if bound == PAUSED:
        next_slot_s = None if state.pause_s is None else max(state.pause_s, rate_s)
    elif bound == IN_FLIGHT:
        next_slot_s = None
    return Explanation(state, tuple(map(spelled, quota.limits)), bound, next_slot_s, state.pause_s)


def _left(state: QuotaState) -> str:
    """How much could be granted now, such as `3 of 20 images free, 5 of 8 in flight`, and the learned rate."""
    parts = [
        _places(state.in_flight, unit)
        if unit.unit == IN_FLIGHT
        else f"{unit.available} of {unit.capacity} {unit.unit} free"
        for unit in state.units
    ]
    if state.scale < 1:
        parts.append(f"learned to use {state.scale:.0%} of the rate")
    return ", ".join(parts) or "it has no limits"


def _places(in_flight: int, unit: UnitState) -> str:
    text = f"{in_flight} of {unit.capacity} in flight"
    places = in_flight + unit.available
    return text if places >= unit.capacity else f"{text}, of which the provider allows {places} for now"


def spelled(limit: Limit) -> str:
    """A limit in the form of its configuration: `images 20/min`, `requests 50/min (burst 5)`, `in_flight 8`."""
    match limit:
        case Window(1, period_us) if period_us not in PERIODS_US.values():
            return f"{limit.unit} 1 every {period_text(period_us, always_number=True)}"
        case Window(count, period_us):
            return f"{limit.unit} {count}/{period_text(period_us)}"
        case Bucket(count, period_us, burst):
            return f"{limit.unit} {count}/{period_text(period_us)} (burst {burst})"
        case FixedWindow(count, period_us):
            return f"{limit.unit} {count}/{period_text(period_us)} (by the clock)"
        case CalendarDay(count, zone):
            return f"{limit.unit} {count}/day ({zone})"
        case InFlight(count, weighed_by):
            return f"in_flight {count}" + ("" if weighed_by == IN_FLIGHT else f" {weighed_by}")


def period_text(period_us: int, *, always_number: bool = False) -> str:
    """A period as configurations spell it: `min`, `10s`."""
    name, unit_us = max(
        ((name, unit_us) for name, unit_us in PERIODS_US.items() if period_us % unit_us == 0),
        key=lambda unit: unit[1],
        default=("us", 1),
    )
    times = period_us // unit_us
    return name if times == 1 and not always_number else f"{times}{name}"


def wait_text(seconds: float) -> str:
    """A wait for people: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`; at least 0.1 s."""
    if seconds < 9.95:
        return f"{max(0.1, seconds):.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _first_bound(state: QuotaState) -> str | None:
    """The bound that denies a call before its rates are checked, in the order of the limiter's checks."""
    if state.paused_reason is not None:
        return PAUSED
    if state.cooldown_s > 0:
        return COOLDOWN
    places = next((unit for unit in state.units if unit.unit == IN_FLIGHT), None)
    return IN_FLIGHT if places is not None and not places.available else None
