"""Defines a quota: a name and the limits of one provider account. Everything here is pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from limiter.quota.limits import (
    LONGEST_PERIOD_US,
    POLLS,
    POLLS_OF,
    SECOND_US,
    UNITS,
    Bucket,
    CalendarDay,
    FixedWindow,
    InFlight,
    Limit,
    QuotaError,
    Window,
)
from limiter.quota.parse import parse_limits
from limiter.quota.presets import PRESETS

__all__ = [
    "PRESETS",
    "UNITS",
    "Bucket",
    "CalendarDay",
    "FixedWindow",
    "InFlight",
    "Limit",
    "Quota",
    "QuotaError",
    "Window",
    "check_cost",
    "cost_of",
    "parse_quota",
]

LimitT = TypeVar("LimitT", bound=Limit)

_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}({re.escape(POLLS_OF)})?")


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one provider account; a call must fit all of them.

    A unit can have several windows ("10/s" and "120/min"), one token bucket and one calendar day. An `adaptive` quota
    learns its real rate from refusals and headers; the limits are then a ceiling.
    """

    name: str
    limits: tuple[Limit, ...] = field(default=())
    adaptive: bool = False
    # A call may be sent so late after its slot (seconds) without being counted anew: half of the smallest guard. The
    # other half is for the way to the provider.
    tolerance_s: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        guard_us = min((limit.guard_us for limit in self.limits), default=LONGEST_PERIOD_US)
        object.__setattr__(self, "tolerance_s", guard_us / 2 / SECOND_US)
        if not _NAME.fullmatch(self.name):
            raise QuotaError(
                f"quota name {self.name!r} is not usable; write letters, digits, . _ -, like 'openai-main'"
            )
        # Each kind keeps its books of a unit under one key; windows that remember each unit share theirs.
        kinds = [(limit.kind, limit.unit) for limit in self.limits if limit.kind != "log"]
        for kind, unit in kinds:
            if kinds.count((kind, unit)) > 1:
                raise QuotaError(
                    f"quota {self.name!r} has two limits on {unit} of a kind that it can have once: "
                    "give the second one a quota of its own, and name both in the route"
                )

    @property
    def fingerprint(self) -> str:
        """A hash of the limits to which a learned rate belongs; empty for a quota that does not learn."""
        if not self.adaptive:
            return ""
        return hashlib.sha256(repr(self.limits).encode()).hexdigest()[:12]

    @property
    def polls(self) -> Quota:
        """The quota of its polls, `NAME.polls`: its limits on polls alone, which may be none.

        It has a cooldown of its own, so a stop of new calls does not stop polls, and a refused poll stops no call. Its
        use is in the books of `NAME`. A poll takes no place in flight, and its rate takes no part in learning.
        """
        limits = tuple(limit for limit in self.limits if limit.unit == POLLS)
        return Quota(self.name + POLLS_OF, limits)

    def limit(self, kind: type[LimitT]) -> LimitT | None:
        """Its first limit of that kind."""
        return next((limit for limit in self.limits if isinstance(limit, kind)), None)

    def optimum_s(self, n: int, service_s: float = 0) -> float:
        """The least time, in seconds from an idle start, in which `n` calls of cost 1 can end.

        One call takes `service_s`. The time is exact under one limit and a lower bound under several. It leaves out
        guards, so a perfect sender that knows the provider's clock could reach it. A calendar day begins at the best
        moment.
        """
        if n <= 0:
            return 0.0
        return max((limit.last_start_s(n, service_s) for limit in self.limits), default=0.0) + service_s


def cost_of(limit: Limit, costs: Mapping[str, int]) -> int:
    """The units that one limit charges a call of these `costs`; every call in flight weighs at least 1."""
    if not isinstance(limit, InFlight):
        return costs.get(limit.unit, 0)
    return costs.get(limit.unit, costs.get(limit.weighed_by, 1)) or 1


def check_cost(quota: Quota, costs: Mapping[str, int]) -> None:
    """Raise QuotaError for a cost below 0 or one that this quota can never grant."""
    for limit in quota.limits:
        cost = cost_of(limit, costs)
        if not 0 <= cost <= limit.most:
            raise QuotaError(
                f"a cost of {cost} {limit.unit} can never be granted by quota {quota.name!r}, "
                f"which grants 0 to {limit.most} at once: split the call, or raise the limit"
            )


def parse_quota(name: str, spec: Mapping[str, object]) -> Quota:
    """The quota that a `[quotas.NAME]` table of the configuration describes.

    Errors: QuotaError with every fault; each sentence names the quota and the field and shows a right example.
    """
    if name.endswith(POLLS_OF):
        raise QuotaError(
            f"quota {name!r}: a name that ends in {POLLS_OF!r} is that of another quota's polls; "
            f"write {name.removesuffix(POLLS_OF) + '-polls'!r}"
        )
    fields = dict(spec)
    adaptive = fields.pop("adaptive", False)
    problems: list[str] = []
    if not isinstance(adaptive, bool):
        problems.append(
            f"quota {name!r}, field 'adaptive': {adaptive!r} is neither true nor false; write adaptive = true"
        )
    limits: tuple[Limit, ...] = ()
    try:
        limits = parse_limits(name, fields)
    except QuotaError as error:
        problems += error.problems
    if problems:
        raise QuotaError(*problems)
    if not limits:
        raise QuotaError(f'quota {name!r} sets no limit: write at least one, like images = "20/min"')
    if adaptive and not any(isinstance(limit, Window | Bucket | FixedWindow) for limit in limits):
        raise QuotaError(
            f'quota {name!r} is adaptive, but has no rate that could adapt; write one, like images = "20/min"'
        )
    return Quota(name, limits, bool(adaptive))
