"""What the limiter answers: a grant with its permit, or when to ask again; and the state of a quota."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one provider call; whoever has it can renew, release or give it back.

    `quotas` are names, `costs` the units charged to each of them, `leased` those quotas in which it holds a
    lease and `weights` how much each of these weighs. `grant_id` tells two grants of one `request_id` apart, so
    what belongs to the one is never taken from the other. `granted_us` and `slot_us` are times of the limiter's
    clock, to be compared with nothing else. It holds no secret.
    """

    request_id: str
    holder: str
    quotas: tuple[str, ...]
    costs: Mapping[str, int]
    leased: tuple[str, ...]
    grant_id: str
    weights: tuple[int, ...] = ()
    granted_us: int = 0
    slot_us: int = 0
    # What the grant left of each limit that learns, by quota and `unit:period_us`; only its first owner knows.
    left: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.leased):
            object.__setattr__(self, "weights", (1,) * len(self.leased))

    @property
    def who(self) -> str:
        """What tells an operator who looks at a lease whose it is."""
        return f"{self.request_id} {self.holder}"

    @property
    def leases(self) -> Iterator[tuple[str, int]]:
        """Each quota in which it holds a lease, with the lease's weight."""
        return zip(self.leased, self.weights, strict=True)

    def to_json(self) -> str:
        """A short string for a job's record; `from_json` of any replica makes the same permit of it."""
        fields = (
            self.request_id,
            self.holder,
            self.quotas,
            dict(self.costs),
            self.leased,
            self.grant_id,
            self.weights,
            self.granted_us,
            self.slot_us,
        )
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Permit:
        """The permit that `to_json` wrote. Errors: ValueError, when it is not one."""
        try:
            request_id, holder, quotas, costs, leased, grant_id, *more = json.loads(text)
            # What follows the grant was not always there.
            weighed = tuple(int(weight) for weight in (more[0] if more else ()))
            granted_us, slot_us = (int(more[1]), int(more[2])) if len(more) > 1 else (0, 0)
            return cls(
                request_id,
                holder,
                tuple(quotas),
                dict(costs),
                tuple(leased),
                grant_id,
                weighed,
                granted_us,
                slot_us,
            )
        except (TypeError, ValueError) as error:
            raise ValueError("this is not a permit as `Permit.to_json` writes it") from error


@dataclass(frozen=True, slots=True)
class Scale:
    """A quota that learns grants another share of its configured rate from now on; shares are 0.01 to 1."""

    quota: str
    before: float
    now: float


@dataclass(frozen=True, slots=True)
class Grant:
    """Charged. Send the call `wait_us` after the moment this reply arrived, by a monotonic clock.

    A delay and not a time: the clocks of the caller and of Redis need not agree, and the error, at most one
    round trip, is always on the late side. `scales` are the quotas whose learned rate this grant changed.
    """

    permit: Permit
    wait_us: int
    scales: tuple[Scale, ...] = ()


@dataclass(frozen=True, slots=True)
class Penalty:
    """What a refusal led to: nobody is granted a slot for `pause_s` from now.

    `cut`: it was the first to tell; refusals of calls that were granted before the last cut make none, and
    `generation` counts them. `scale` is the change of a learned rate, `places` how many calls may be in flight now
    (0: not limited).
    """

    pause_s: float
    cut: bool
    generation: int
    scale: Scale | None
    places: int


@dataclass(frozen=True, slots=True)
class Later:
    """Not granted. Ask again in `retry_us`; `bound` is what stood in the way.

    `bound` is `quota:NAME.` and one of requests, images, polls, in_flight, cooldown, paused. Nothing is charged,
    unless the request was asked again with what it was told before: then it may have a `turn`, whose slot is charged
    under all rates. Who asks once more finds that slot or an earlier one; who does not, gives the turn back.
    """

    retry_us: int
    bound: str
    turn: Permit | None = None


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
    provider's pause (0: none), `cooldown_generation` how many cuts there were. `paused_reason` is the operator's,
    None when not paused, `pause_s` the rest of that (None: open). `scale` is the learned share of the rate.
    """

    quota: str
    units: tuple[UnitState, ...]
    in_flight: int
    cooldown_s: float
    cooldown_reason: str | None
    cooldown_generation: int
    paused_reason: str | None
    pause_s: float | None = None
    scale: float = 1.0
