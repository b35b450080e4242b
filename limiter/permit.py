"""What the limiter answers: a grant with its permit, or when to ask again; and the state of a quota."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one provider call; whoever has it can renew, release or give it back.

    `quotas` are names, `costs` the units charged to each of them, `leased` those quotas in which it holds a
    lease and `weights` how much each of these weighs. `grant_id` tells two grants of one `request_id` apart, so
    what belongs to the one is never taken from the other. It holds no secret.
    """

    request_id: str
    holder: str
    quotas: tuple[str, ...]
    costs: Mapping[str, int]
    leased: tuple[str, ...]
    grant_id: str
    weights: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.leased):
            object.__setattr__(self, "weights", (1,) * len(self.leased))

    @property
    def leases(self) -> Iterator[tuple[str, int]]:
        """Each quota in which it holds a lease, with the lease's weight."""
        return zip(self.leased, self.weights, strict=True)

    def to_json(self) -> str:
        """A short string for a job's record; `from_json` of any replica makes the same permit of it."""
        fields: list[object] = [
            self.request_id,
            self.holder,
            self.quotas,
            dict(self.costs),
            self.leased,
            self.grant_id,
        ]
        if any(weight != 1 for weight in self.weights):
            fields.append(self.weights)
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Permit:
        """The permit that `to_json` wrote. Errors: ValueError, when it is not one."""
        try:
            request_id, holder, quotas, costs, leased, grant_id, *weights = json.loads(text)
            weighed = tuple(weights[0]) if weights else ()
            return cls(request_id, holder, tuple(quotas), dict(costs), tuple(leased), grant_id, weighed)
        except (TypeError, ValueError) as error:
            raise ValueError("this is not a permit as `Permit.to_json` writes it") from error


@dataclass(frozen=True, slots=True)
class Grant:
    """Charged. Send the call `wait_us` after the moment this reply arrived, by a monotonic clock.

    A delay and not a time: the clocks of the caller and of Redis need not agree, and the error, at most one
    round trip, is always on the late side.
    """

    permit: Permit
    wait_us: int


@dataclass(frozen=True, slots=True)
class Later:
    """Not granted, nothing charged. Ask again in `retry_us`; `bound` is what stood in the way.

    `bound` is `quota:NAME.` and one of requests, images, polls, in_flight, cooldown, paused.
    """

    retry_us: int
    bound: str


@dataclass(frozen=True, slots=True)
class UnitState:
    """How much of a unit exists and how much could be granted at this moment, by its tightest limit."""

    unit: str
    capacity: int
    available: int


@dataclass(frozen=True, slots=True)
class QuotaState:
    """A quota as Redis knew it at one instant; `units` has one entry a unit, in_flight among them.

    `in_flight` is the weight of the live leases; it is 0 for a quota that limits none. `cooldown_s` is the rest of a
    provider's pause (0: none). `paused_reason` is the operator's, None when not paused.
    """

    quota: str
    units: tuple[UnitState, ...]
    in_flight: int
    cooldown_s: float
    cooldown_reason: str | None
    cooldown_generation: int
    paused_reason: str | None
